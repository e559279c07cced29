// As much of Core ML as plugins/coreml uses, with arrays that have memory.
import Foundation
import Metal

public enum MLMultiArrayDataType: Int {
    case double = 0x10040, float32 = 0x10020, float16 = 0x10010, int32 = 0x20020
}

public final class MLMultiArray {
    public let shape: [NSNumber], strides: [NSNumber], dataType: MLMultiArrayDataType
    public let dataPointer: UnsafeMutableRawPointer
    public let count: Int

    public init(shape: [NSNumber], dataType: MLMultiArrayDataType) throws {
        self.shape = shape
        self.dataType = dataType
        var strides = [1]
        for size in shape.dropFirst().reversed() { strides.insert(strides[0] * size.intValue, at: 0) }
        self.strides = strides.map { NSNumber(value: $0) }
        count = shape.reduce(1) { $0 * $1.intValue }
        dataPointer = UnsafeMutableRawPointer.allocate(byteCount: max(count, 1) * 8, alignment: 16)
        memset(dataPointer, 0xff, max(count, 1) * 8)
    }

    deinit { dataPointer.deallocate() }
}

public protocol MLCustomLayer {
    init(parameters: [String: Any]) throws
    func setWeightData(_ weights: [Data]) throws
    func outputShapes(forInputShapes inputShapes: [[NSNumber]]) throws -> [[NSNumber]]
    func evaluate(inputs: [MLMultiArray], outputs: [MLMultiArray]) throws
    func encode(commandBuffer: any MTLCommandBuffer, inputs: [any MTLTexture], outputs: [any MTLTexture]) throws
}
