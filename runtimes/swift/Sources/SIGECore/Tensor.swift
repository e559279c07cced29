/// The type of an array's elements.
public enum DType: String, CaseIterable, Sendable {
    case float16, float32, float64, bool, int8, int16, int32, int64, uint8, uint16, uint32, uint64

    /// Bytes of an element.
    public var size: Int {
        switch self {
        case .bool, .int8, .uint8: return 1
        case .float16, .int16, .uint16: return 2
        case .float32, .int32, .uint32: return 4
        case .float64, .int64, .uint64: return 8
        }
    }

    /// The type as safetensors files name it: `F32`, `I8`, `BOOL`.
    public var saved: String {
        switch self {
        case .bool: return "BOOL"
        case .float16, .float32, .float64: return "F\(8 * size)"
        case .int8, .int16, .int32, .int64: return "I\(8 * size)"
        case .uint8, .uint16, .uint32, .uint64: return "U\(8 * size)"
        }
    }

    /// Whether elements are numbers with a fraction.
    public var floating: Bool { self == .float16 || self == .float32 || self == .float64 }
}

/// A dense, row-major array.
public struct Tensor: Equatable, Sendable {
    /// The type of the elements.
    public let dtype: DType
    /// Sizes of the axes, outer first; empty for a scalar.
    public let shape: [Int]
    /// The elements as they lie in memory, little endian.
    public internal(set) var bytes: [UInt8]

    /// An array of bytes that are there already; throws kind `input` where they are too many or too few.
    public init(_ dtype: DType, shape: [Int], bytes: [UInt8]) throws {
        let wanted = shape.reduce(dtype.size, *)
        guard shape.allSatisfy({ $0 >= 0 }), bytes.count == wanted else {
            throw SigeError(
                .input, "an array of \(dtype.rawValue) of shape \(shape) has \(wanted) bytes, not \(bytes.count).")
        }
        self.dtype = dtype
        self.shape = shape
        self.bytes = bytes
    }

    /// An array of zeros.
    public init(zeros dtype: DType, shape: [Int]) {
        self.dtype = dtype
        self.shape = shape
        bytes = [UInt8](repeating: 0, count: shape.reduce(dtype.size, *))
    }

    /// An array of float32; throws kind `input` where there are too many values or too few.
    public init(shape: [Int], floats: [Float]) throws {
        try self.init(.float32, shape: shape, bytes: floats.withUnsafeBytes { [UInt8]($0) })
    }

    /// An array of any type out of float32 numbers; whole numbers are rounded. Throws kind `input` where there are too many
    /// values or too few.
    public init(_ dtype: DType, shape: [Int], floats: [Float]) throws {
        func bytes<T>(_ convert: (Float) -> T) -> [UInt8] { floats.map(convert).withUnsafeBytes { [UInt8]($0) } }
        func whole<T: FixedWidthInteger>(_ type: T.Type) -> [UInt8] {
            bytes { T(exactly: $0.rounded()) ?? ($0 < 0 ? T.min : T.max) }
        }
        let made: [UInt8]
        switch dtype {
        case .float16: made = bytes(half(of:))
        case .float32: made = bytes { $0 }
        case .float64: made = bytes { Double($0) }
        case .bool: made = bytes { $0 != 0 ? UInt8(1) : UInt8(0) }
        case .int8: made = whole(Int8.self)
        case .int16: made = whole(Int16.self)
        case .int32: made = whole(Int32.self)
        case .int64: made = whole(Int64.self)
        case .uint8: made = whole(UInt8.self)
        case .uint16: made = whole(UInt16.self)
        case .uint32: made = whole(UInt32.self)
        case .uint64: made = whole(UInt64.self)
        }
        try self.init(dtype, shape: shape, bytes: made)
    }

    /// Number of elements.
    public var count: Int { bytes.count / dtype.size }

    /// The elements as they are; `type` must be as large as one of them.
    public func values<T>(_ type: T.Type) -> [T] {
        precondition(MemoryLayout<T>.size == dtype.size, "values of another size")
        return bytes.withUnsafeBytes { Array($0.bindMemory(to: T.self)) }
    }

    /// All elements as float32: exact for float16 and integers of up to 24 bits, rounded otherwise.
    public func floats() -> [Float] {
        switch dtype {
        case .float16: return values(UInt16.self).map(float(half:))
        case .float32: return values(Float.self)
        case .float64: return values(Double.self).map { Float($0) }
        case .bool, .uint8: return values(UInt8.self).map { Float($0) }
        case .int8: return values(Int8.self).map { Float($0) }
        case .int16: return values(Int16.self).map { Float($0) }
        case .int32: return values(Int32.self).map { Float($0) }
        case .int64: return values(Int64.self).map { Float($0) }
        case .uint16: return values(UInt16.self).map { Float($0) }
        case .uint32: return values(UInt32.self).map { Float($0) }
        case .uint64: return values(UInt64.self).map { Float($0) }
        }
    }

    /// The same numbers as halves, rounded to nearest, ties to even.
    public func halves() -> [UInt16] { dtype == .float16 ? values(UInt16.self) : floats().map(half(of:)) }

    /// Whether no element is NaN or infinite.
    var finite: Bool {
        switch dtype {
        case .float16: return values(UInt16.self).allSatisfy { $0 & 0x7C00 != 0x7C00 }
        case .float32: return values(Float.self).allSatisfy(\.isFinite)
        case .float64: return values(Double.self).allSatisfy(\.isFinite)
        default: return true
        }
    }
}

/// The number that a half's bits stand for. (`Float16` is not there on every Mac.)
public func float(half bits: UInt16) -> Float {
    let sign = UInt32(bits & 0x8000) << 16
    let exponent = Int(bits >> 10 & 0x1F)
    let fraction = UInt32(bits & 0x3FF)
    switch exponent {
    case 0:  // zero or subnormal: fraction * 2^-24, exact in float32
        let magnitude = Float(fraction) * 0x1p-24
        return Float(bitPattern: sign | magnitude.bitPattern)
    case 31: return Float(bitPattern: sign | 0x7F80_0000 | fraction << 13)
    default: return Float(bitPattern: sign | UInt32(exponent + 112) << 23 | fraction << 13)
    }
}

/// The bits of the half nearest to a number, ties to even; infinity where it is too large.
public func half(of value: Float) -> UInt16 {
    let bits = value.bitPattern
    let sign = UInt16(truncatingIfNeeded: bits >> 16 & 0x8000)
    let magnitude = bits & 0x7FFF_FFFF
    if magnitude > 0x7F80_0000 { return sign | 0x7E00 }  // NaN
    if magnitude >= 0x477F_F000 { return sign | 0x7C00 }  // 65520 and above round to infinity
    if magnitude < 0x3880_0000 {  // subnormal halves: adding 0.5 leaves units of 2^-24
        let sum = Float(bitPattern: magnitude) + 0.5
        return sign | UInt16(truncatingIfNeeded: sum.bitPattern - Float(0.5).bitPattern)
    }
    let odd = magnitude >> 13 & 1
    return sign | UInt16(truncatingIfNeeded: (magnitude - 0x3800_0000 + 0xFFF + odd) >> 13)
}
