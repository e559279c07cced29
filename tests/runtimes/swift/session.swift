// Runs sessions of SIGEKit on Linux, where stubs stand in for Core ML: the edit models layer by layer, with the custom layers of
// plugins/coreml on the CPU, the record model by results that lie in files. tests/runtimes/test_swift_session.py writes them.
//
//     session <folder of the models as JSON> <bundle>, a script of lines on its input, one answer a line
import CoreML
import Foundation
import SIGECore
import SIGEKit
import SIGELayers

/// The kernels of the GPU, which are not run here.
@_cdecl("sige_dispatch")
func dispatch(
    _ name: UnsafePointer<CChar>, _ textures: UnsafePointer<UnsafeRawPointer?>,
    _ buffers: UnsafePointer<UnsafeMutableRawPointer?>, _ groups: UnsafePointer<UInt32>, _ threads: UnsafePointer<UInt32>,
    _ bytes: Int
) -> Int32 { -1 }

let folder = URL(fileURLWithPath: CommandLine.arguments[1])
let classes: [String: SIGELayer.Type] = [
    "SIGEGather": SIGEGather.self, "SIGEConv": SIGEConv.self, "SIGEScatter": SIGEScatter.self,
    "SIGEAttention": SIGEAttention.self,
]
var records = 0

func array(_ shape: [Int]) throws -> MLMultiArray {
    try MLMultiArray(shape: shape.map { NSNumber(value: $0) }, dataType: .float32)
}

func floats(_ array: MLMultiArray) -> UnsafeMutablePointer<Float> {
    array.dataPointer.assumingMemoryBound(to: Float.self)
}

func filled(_ tensor: Tensor) throws -> MLMultiArray {
    let made = try array(tensor.shape)
    for (i, value) in tensor.floats().enumerated() { floats(made)[i] = value }
    return made
}

/// One element by element, or one value for all pixels.
func combined(_ a: MLMultiArray, _ b: MLMultiArray, _ op: (Float, Float) -> Float) throws -> MLMultiArray {
    let (m, n) = (a.shape[3].intValue, b.shape[3].intValue)
    let (channels, pixels) = (a.shape[1].intValue, max(m, n))
    let made = try array([1, channels, 1, pixels])
    for c in 0..<channels {
        for p in 0..<pixels { floats(made)[c * pixels + p] = op(floats(a)[c * m + p % m], floats(b)[c * n + p % n]) }
    }
    return made
}

func run(_ layer: [String: Any], _ given: [MLMultiArray], _ weights: Safetensors) throws -> MLMultiArray {
    let kind = layer["kind"] as! String
    let names = layer["weights"] as! [String]
    if let type = classes[kind] {
        let made = try type.init(parameters: layer["parameters"] as! [String: Any])
        let shapes = try made.outputShapes(forInputShapes: given.map(\.shape))
        try made.setWeightData(try names.map { Data(try weights.tensor($0).bytes) })
        let result = try array(shapes[0].map(\.intValue))
        try made.evaluate(inputs: given, outputs: [result])
        return result
    }
    switch kind {
    case "copy": return given[0]
    case "addBroadcastable": return try combined(given[0], given[1], +)
    case "subtractBroadcastable": return try combined(given[0], given[1], -)
    case "multiplyBroadcastable": return try combined(given[0], given[1], *)
    case "loadConstantND": return try filled(try weights.tensor(names[0]))
    case "concatND":
        let made = try array([1, given.reduce(0) { $0 + $1.shape[1].intValue }, 1, given[0].shape[3].intValue])
        var at = 0
        for part in given {
            for i in 0..<part.count { floats(made)[at + i] = floats(part)[i] }
            at += part.count
        }
        return made
    default: fatalError("the stub knows no layer \(kind)")
    }
}

MLModel.predict = { url, given in
    if url.lastPathComponent == "record.mlpackage" {
        records += 1
        let file = try Safetensors(at: folder.appendingPathComponent("record-\(records).safetensors").path)
        var made: [String: MLMultiArray] = [:]
        for name in file.names { made[name] = try filled(try file.tensor(name)) }
        return made
    }
    let name = url.deletingPathExtension().lastPathComponent
    let weights = try Safetensors(at: folder.appendingPathComponent(name + ".safetensors").path)
    let text = try Data(contentsOf: folder.appendingPathComponent(name + ".json"))
    var values: [String: MLMultiArray] = [:]
    for name in given.featureNames { values[name] = given.featureValue(for: name)!.multiArrayValue! }
    for layer in try JSONSerialization.jsonObject(with: text) as! [[String: Any]] {
        let inputs = (layer["inputs"] as! [String]).map { values[$0]! }
        values[layer["output"] as! String] = try run(layer, inputs, weights)
    }
    return values
}

func write(_ tensors: Tensors, _ path: String) throws {
    var header: [String] = []
    var data: [UInt8] = []
    for (name, tensor) in tensors {
        let place = "[\(data.count),\(data.count + tensor.bytes.count)]"
        header.append("\"\(name)\":{\"dtype\":\"\(tensor.dtype.saved)\",\"shape\":\(tensor.shape),\"data_offsets\":\(place)}")
        data += tensor.bytes
    }
    let text = Array("{\(header.joined(separator: ","))}".utf8)
    let length = withUnsafeBytes(of: UInt64(text.count).littleEndian) { [UInt8]($0) }
    try Data(length + text + data).write(to: URL(fileURLWithPath: path))
}

final class Lines: @unchecked Sendable {
    private let lock = NSLock()
    private var lines: [String] = []

    func add(_ line: String) { lock.withLock { lines.append(line) } }
    var all: [String] { lock.withLock { lines } }
}

func told(_ report: Report) -> String {
    let rows = report.rows.sorted { $0.key < $1.key }.map { "\($0.key)=\($0.value)" }.joined(separator: ",")
    let layers = report.encoded == 0 && (report.evaluated > 0) == (report.bucket != nil)
    return "\(report.path.rawValue) \(report.activeFraction) \(report.bucket ?? -1) \(rows) \(layers ? "counted" : "?")"
}

func answer(_ words: [String], _ session: Session) async throws -> String {
    if words[0] == "selftest" {
        let bundle = URL(fileURLWithPath: session.bundle.root)
        let test = try SelfTest(bundle: bundle, golden: URL(fileURLWithPath: words[1]))
        let lines = Lines()
        let outcome = try await test.run(repeats: 1) { lines.add($0) }
        let timed = outcome.dense > 0 && outcome.sparse > 0
        return "ok \(outcome.passed) \(outcome.encoded) \(timed) \(lines.all.joined(separator: "; "))"
    }
    var given: Tensors = [:]
    var mask: Mask?
    if words.count > 1 {
        let file = try Safetensors(at: words[1])
        for name in file.names where name != "mask" { given[name] = try file.tensor(name) }
        if file.has("mask") {
            let pixels = try file.tensor("mask")
            mask = try Mask(height: pixels.shape[0], width: pixels.shape[1], pixels: pixels.bytes)
        }
    }
    switch words[0] {
    case "record": try write(try await session.record(given), words[2])
    case "edit": try write(try await session.edit(given, mask: mask), words[2])
    case "dense": try write(try await session.dense(given), words[2])
    case "commit":
        try await session.commit()
        return "ok committed"
    case "close":
        await session.close()
        return "ok closed"
    case "again":
        let other = try await Session.open(URL(fileURLWithPath: session.bundle.root))
        await other.close()
        return "ok opened"
    default: fatalError("unknown command")
    }
    return "ok \(told(try await session.report()))"
}

do {
    let session = try await Session.open(URL(fileURLWithPath: CommandLine.arguments[2]))
    while let line = readLine() {
        do {
            print(try await answer(line.split(separator: "\t").map(String.init), session))
        } catch let error as SigeError {
            print(error.kind.rawValue, error.sentence)
        }
    }
} catch let error as SigeError {
    print(error.kind.rawValue, error.sentence)
}
