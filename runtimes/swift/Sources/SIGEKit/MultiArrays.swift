// Between arrays of this package and Core ML's.
import CoreML
import Foundation
import SIGECore

extension MLMultiArray {
    /// A dense array of these sizes and float32 values.
    static func made(_ shape: [Int], floats: [Float]) throws -> MLMultiArray {
        let array = try MLMultiArray(shape: shape.map { NSNumber(value: $0) }, dataType: .float32)
        array.fill(floats)
        return array
    }

    /// A dense array as the record model takes it: floats as they are, whole numbers as int32.
    static func made(_ tensor: Tensor) throws -> MLMultiArray {
        let kind: MLMultiArrayDataType
        switch tensor.dtype {
        case .float16: kind = .float16
        case .float32: kind = .float32
        case .float64: kind = .double
        default: kind = .int32
        }
        let array = try MLMultiArray(shape: tensor.shape.map { NSNumber(value: $0) }, dataType: kind)
        switch kind {
        case .float16: array.fill(tensor.halves())
        case .float32: array.fill(tensor.floats())
        case .double: array.fill(tensor.values(Double.self))
        default: array.fill(try tensor.integers())
        }
        return array
    }

    private func fill<T>(_ values: [T]) {
        values.withUnsafeBytes { bytes in
            if let from = bytes.baseAddress { dataPointer.copyMemory(from: from, byteCount: bytes.count) }
        }
    }

    /// All values in row-major order, whatever the strides are.
    func floats() throws -> [Float] {
        if dataType == .float16 { return read(UInt16.self, float(half:)) }
        if dataType == .float32 { return read(Float.self) { $0 } }
        if dataType == .double { return read(Double.self) { Float($0) } }
        if dataType == .int32 { return read(Int32.self) { Float($0) } }
        throw SigeError(.runtime, "Core ML gave an array of type \(dataType.rawValue), which is not known.")
    }

    /// The same as halves.
    func halves() throws -> [UInt16] {
        dataType == .float16 ? read(UInt16.self) { $0 } : try floats().map(half(of:))
    }

    private func read<T, U>(_ type: T.Type, _ convert: (T) -> U) -> [U] {
        let sizes = shape.map(\.intValue)
        let steps = strides.map(\.intValue)
        let start = dataPointer.assumingMemoryBound(to: T.self)
        var result: [U] = []
        result.reserveCapacity(count)
        guard let inner = sizes.last, let step = steps.last else { return [convert(start[0])] }
        func visit(_ axis: Int, _ offset: Int) {
            if axis == sizes.count - 1 {
                for i in 0..<inner { result.append(convert(start[offset + i * step])) }
            } else {
                for i in 0..<sizes[axis] { visit(axis + 1, offset + i * steps[axis]) }
            }
        }
        visit(0, 0)
        return result
    }
}

extension Tensor {
    /// Whole numbers as int32; throws kind `input` for those that do not fit.
    fileprivate func integers() throws -> [Int32] {
        func all<T: BinaryInteger>(_ type: T.Type) throws -> [Int32] {
            try values(T.self).map { value in
                guard let fits = Int32(exactly: value) else {
                    throw SigeError(.input, "an input holds \(value); Core ML takes whole numbers of 32 bits only.")
                }
                return fits
            }
        }
        switch dtype {
        case .int8: return try all(Int8.self)
        case .int16: return try all(Int16.self)
        case .int32: return try all(Int32.self)
        case .int64: return try all(Int64.self)
        case .uint16: return try all(UInt16.self)
        case .uint32: return try all(UInt32.self)
        case .uint64: return try all(UInt64.self)
        default: return try all(UInt8.self)
        }
    }
}
