// Runs the custom layers on the cases of a folder, as Core ML would: made, given weights, evaluated on the CPU, and encoded for a
// GPU with simdgroup matrices and for one without.
//
//     run_layers <folder of kernels> <folder of cases>
//
// cases.json lists them; every array is a file of float16, int32 alone is in the JSON. Results go beside, and kernels.metal, the one
// source that Metal would compile.
import CoreML
import Foundation
import Metal

let classes: [String: SIGELayer.Type] = [
    "SIGEGather": SIGEGather.self, "SIGEConv": SIGEConv.self, "SIGEScatter": SIGEScatter.self,
    "SIGEAttention": SIGEAttention.self,
]
let folder = URL(fileURLWithPath: CommandLine.arguments[2])
SIGEKernels.folder = URL(fileURLWithPath: CommandLine.arguments[1])

func read(_ name: String) throws -> Data { try Data(contentsOf: folder.appendingPathComponent(name)) }

func integers(_ value: Any?) -> [Int32] { (value as! [NSNumber]).map(\.int32Value) }

/// The halves of a file [C, P].
struct Tensor {
    let channels: Int, rows: Int, halves: [UInt16]

    init(_ told: [String: Any]) throws {
        channels = (told["channels"] as! NSNumber).intValue
        rows = (told["rows"] as! NSNumber).intValue
        halves = try read(told["file"] as! String).withUnsafeBytes { Array($0.bindMemory(to: UInt16.self)) }
    }

    func array(_ type: MLMultiArrayDataType) throws -> MLMultiArray {
        let made = try MLMultiArray(shape: [1, channels, 1, rows].map { NSNumber(value: $0) }, dataType: type)
        for (i, half) in halves.enumerated() {
            if type == .float16 {
                made.dataPointer.assumingMemoryBound(to: UInt16.self)[i] = half
            } else {
                made.dataPointer.assumingMemoryBound(to: Float.self)[i] = SIGEHalf.float(half)
            }
        }
        return made
    }

    /// Texels; channels past the last one stay NaN.
    func texture() -> TestTexture {
        let made = TestTexture(width: rows, height: 1, arrayLength: (channels + 3) / 4)
        for c in 0..<channels {
            for row in 0..<rows { made.texels[(c / 4 * rows + row) * 4 + c % 4] = halves[c * rows + row] }
        }
        return made
    }
}

func write(_ halves: [UInt16], _ name: String) throws {
    try halves.withUnsafeBytes { Data($0) }.write(to: folder.appendingPathComponent(name))
}

func run(_ told: [String: Any], _ number: Int) throws {
    let context = SIGEContext.context(number)
    for (level, value) in told["levels"] as! [String: [String: Any]] {
        context.setActive(integers(value["active"]), level: level, live: (value["live"] as! NSNumber).intValue)
    }
    for (geometry, value) in told["geometries"] as! [String: [String: Any]] {
        context.setTable(integers(value["table"]), halo: integers(value["halo"]), geometry: geometry)
    }
    for (name, file) in told["arrays"] as! [String: String] {
        try read(file).withUnsafeBytes { context.setArray(name, halves: $0) }
    }
    var parameters = told["parameters"] as! [String: Any]
    parameters["context"] = NSNumber(value: number)
    if let padding = parameters["pad_value"] as? String { parameters["pad_value"] = NSNumber(value: Double(padding)!) }
    let layer = try classes[told["class"] as! String]!.init(parameters: parameters)
    let inputs = try (told["inputs"] as! [[String: Any]]).map(Tensor.init)
    let shape = try layer.outputShapes(forInputShapes: inputs.map { _ in [0, 0, 0, 0] })[0]
    try layer.setWeightData((told["weights"] as! [String]).map(read))
    let (channels, rows) = (shape[1].intValue, shape[3].intValue)

    let type: MLMultiArrayDataType = number % 2 == 0 ? .float32 : .float16
    let result = try MLMultiArray(shape: shape, dataType: type)
    try layer.evaluate(inputs: try inputs.map { try $0.array(type) }, outputs: [result])
    let values = (0..<channels * rows).map { i in
        type == .float16
            ? result.dataPointer.assumingMemoryBound(to: UInt16.self)[i]
            : SIGEHalf.bits(result.dataPointer.assumingMemoryBound(to: Float.self)[i])
    }
    try write(values, "\(number).evaluated")

    for hasMatrices in [true, false] {
        let image = TestTexture(width: rows, height: 1, arrayLength: (channels + 3) / 4)
        let commands = TestCommandBuffer(device: TestDevice(hasMatrices: hasMatrices))
        try layer.encode(commandBuffer: commands, inputs: inputs.map { $0.texture() }, outputs: [image])
        var halves = [UInt16]()
        for c in 0..<channels {
            for row in 0..<rows { halves.append(image.texels[(c / 4 * rows + row) * 4 + c % 4]) }
        }
        try write(halves, "\(number).\(hasMatrices ? "matrices" : "plain")")
    }
    precondition(context.calls == (2, 1), "calls are counted")
    SIGEContext.remove(number)
}

// Every half there and back; float16 of Swift is there on Linux.
for bits in UInt16.min...UInt16.max {
    let known = Float16(bitPattern: bits)
    precondition(known.isNaN ? SIGEHalf.float(bits).isNaN : SIGEHalf.float(bits) == Float(known), "half \(bits)")
    precondition(known.isNaN || SIGEHalf.bits(Float(known)) == bits, "half \(bits) and back")
}
var seed: UInt32 = 1
for _ in 0..<200_000 {
    seed = seed &* 1_664_525 &+ 1_013_904_223
    let value = Float(bitPattern: seed)
    precondition(value.isNaN || SIGEHalf.bits(value) == Float16(value).bitPattern, "\(value) rounded")
}

do {
    let cases = try JSONSerialization.jsonObject(with: read("cases.json")) as! [[String: Any]]
    for (number, told) in cases.enumerated() { try run(told, number) }
    let source = try SIGEKernels.source(in: SIGEKernels.folder!)
    try source.write(to: folder.appendingPathComponent("kernels.metal"), atomically: true, encoding: .utf8)
} catch {
    print("\(error)")
    exit(1)
}
