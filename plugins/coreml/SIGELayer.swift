// What the custom layers share: parameters, weights, and rows in and out.
import CoreML
import Foundation
import Metal

/// A custom layer of one op of docs/ops.md, made by Core ML; docs/coreml.md lists the parameters.
public class SIGELayer: NSObject, MLCustomLayer {
    let inputs: [String], weightNames: [String], level: String
    /// Rows of the level, padded to the bucket.
    let rows: Int
    /// Channels of the source.
    let channels: Int
    let outputs: Int
    /// Looked up in each call: a model may outlive what a session had set.
    var context: SIGEContext { SIGEContext.context(contextNumber) }
    private let contextNumber: Int
    private(set) var weights: [String: SIGEMemory] = [:]

    /// Rows that come out.
    var outputRows: Int { rows }

    public required init(parameters: [String: Any]) throws {
        let given = SIGEParameters(parameters)
        inputs = try given.words("inputs")
        weightNames = try given.words("weights")
        level = try given.string("level")
        rows = try given.count("rows")
        channels = try given.count("channels")
        outputs = try given.count("outputs")
        contextNumber = try given.integer("context")
        super.init()
        try read(given)
    }

    /// Reads what only this layer has.
    func read(_ parameters: SIGEParameters) throws {}

    /// Values of each weight, by name.
    func weightCounts() -> [String: Int] { [:] }

    /// Weights are float16; Core ML may hand them over as float32.
    public func setWeightData(_ given: [Data]) throws {
        guard given.count == weightNames.count else {
            throw SIGELayerError("A \(type(of: self)) got \(given.count) weights, expected \(weightNames.count).")
        }
        let counts = weightCounts()
        for (name, data) in zip(weightNames, given) {
            guard let count = counts[name] else {
                throw SIGELayerError("A \(type(of: self)) has no weight '\(name)'.")
            }
            let memory = SIGEMemory(byteCount: 2 * count)
            if data.count == 2 * count {
                data.withUnsafeBytes { memory.bytes.copyMemory(from: $0) }
            } else if data.count == 4 * count {
                data.withUnsafeBytes { bytes in
                    for i in 0..<count {
                        let value = bytes.loadUnaligned(fromByteOffset: 4 * i, as: Float.self)
                        memory.bytes.storeBytes(of: SIGEHalf.bits(value), toByteOffset: 2 * i, as: UInt16.self)
                    }
                }
            } else {
                throw SIGELayerError(
                    "The \(name) of a \(type(of: self)) has \(data.count) bytes, expected \(2 * count) of float16.")
            }
            weights[name] = memory
        }
    }

    /// Follows from the parameters: Core ML may ask before the weights are set, and with empty shapes.
    public func outputShapes(forInputShapes inputShapes: [[NSNumber]]) throws -> [[NSNumber]] {
        [[1, outputs, 1, outputRows].map { NSNumber(value: $0) }]
    }

    public final func evaluate(inputs tensors: [MLMultiArray], outputs results: [MLMultiArray]) throws {
        try require(tensors.count == inputs.count && results.count == 1, "\(tensors.count) tensors")
        var given: [String: SIGERows] = [:]
        for (name, tensor) in zip(inputs, tensors) { given[name] = try SIGERows(tensor) }
        for (name, rows) in given { try check(name, count: rows.count, channels: rows.channels) }
        var result = SIGERows(count: outputRows, channels: outputs)
        try evaluate(given, live: try context.level(level), into: &result)
        try result.store(in: results[0])
        context.note(encoded: false)
    }

    /// Fills the rows of `result`, zeros before, that are live.
    func evaluate(_ given: [String: SIGERows], live: SIGEContext.Level, into result: inout SIGERows) throws {
        fatalError("every layer has its own")
    }

    public final func encode(
        commandBuffer: any MTLCommandBuffer, inputs tensors: [any MTLTexture], outputs results: [any MTLTexture]
    ) throws {
        try require(tensors.count == inputs.count && results.count == 1, "\(tensors.count) textures")
        var given: [String: any MTLTexture] = [:]
        for (name, tensor) in zip(inputs, tensors) {
            given[name] = tensor
            try require(tensor.arrayLength == ceilDivide(channelsOf(name), 4), "\(tensor.arrayLength) slices of '\(name)'")
            try check(name, count: tensor.width, channels: channelsOf(name))
        }
        let result = results[0]
        try require(
            result.width == outputRows && result.arrayLength == ceilDivide(outputs, 4),
            "an image of \(result.width) rows and \(result.arrayLength) slices to write to")
        let metal = try SIGEMetal.of(commandBuffer.device)
        try encode(given, result, live: try context.level(level), metal, commandBuffer)
        context.note(encoded: true)
    }

    func encode(
        _ given: [String: any MTLTexture], _ result: any MTLTexture, live: SIGEContext.Level, _ metal: SIGEMetal,
        _ commands: any MTLCommandBuffer
    ) throws {
        fatalError("every layer has its own")
    }

    /// Channels of an input.
    func channelsOf(_ input: String) -> Int { channels }

    /// Rows of an input; nil: any number.
    func rowsOf(_ input: String) -> Int? { rows }

    private func check(_ name: String, count: Int, channels: Int) throws {
        try require(
            channels == channelsOf(name) && count == rowsOf(name) ?? count,
            "\(channels) channels of \(count) rows as '\(name)'")
    }

    func require(_ condition: Bool, _ found: @autoclosure () -> String) throws {
        guard condition else {
            throw SIGELayerError(
                "A \(type(of: self)) of \(outputs) channels of \(outputRows) rows got \(found()); the model is of another build.")
        }
    }
}

/// Parameters as Core ML gives them: strings and numbers.
struct SIGEParameters {
    private let given: [String: Any]

    init(_ given: [String: Any]) { self.given = given }

    func string(_ name: String) throws -> String {
        guard let value = given[name] as? String else { throw missing(name, "a string") }
        return value
    }

    func words(_ name: String) throws -> [String] { try string(name).split(separator: " ").map(String.init) }

    func integer(_ name: String) throws -> Int {
        if let value = given[name] as? Int { return value }
        guard let value = given[name] as? NSNumber else { throw missing(name, "an integer") }
        return value.intValue
    }

    /// An integer above zero.
    func count(_ name: String) throws -> Int {
        let value = try integer(name)
        guard value > 0 else { throw missing(name, "an integer above zero") }
        return value
    }

    func float(_ name: String) throws -> Float {
        if let value = given[name] as? Double { return Float(value) }
        guard let value = given[name] as? NSNumber else { throw missing(name, "a number") }
        return value.floatValue
    }

    private func missing(_ name: String, _ kind: String) -> SIGELayerError {
        SIGELayerError("A layer's parameter '\(name)' must be \(kind); build the Core ML models anew.")
    }
}
