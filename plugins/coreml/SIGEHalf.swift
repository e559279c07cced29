// float16 as its bits: Swift's Float16 is missing on Macs with Intel processors.

enum SIGEHalf {
    /// The value of a half.
    @inline(__always)
    static func float(_ bits: UInt16) -> Float {
        let sign = UInt32(bits & 0x8000) << 16
        let rest = UInt32(bits & 0x7fff) << 13
        // A half's exponent is 112 below a float's; multiplied by 2^112, subnormal halves come out right too.
        let scaled = Float(bitPattern: rest) * 0x1p112
        let infinite: UInt32 = bits & 0x7c00 == 0x7c00 ? 0x7f80_0000 : 0
        return Float(bitPattern: scaled.bitPattern | infinite | sign)
    }

    /// The nearest half, the even one of two; infinity beyond the range.
    @inline(__always)
    static func bits(_ value: Float) -> UInt16 {
        let sign = UInt16(truncatingIfNeeded: (value.bitPattern >> 16) & 0x8000)
        let rest = value.bitPattern & 0x7fff_ffff
        if rest > 0x7f80_0000 { return sign | 0x7e00 }
        if rest >= 0x4780_0000 { return sign | 0x7c00 }  // 65536 and above
        if rest < 0x3880_0000 {  // subnormal: adding 0.5 leaves the half in the last bits, rounded
            let sum = Float(bitPattern: rest) + 0.5
            return sign | UInt16(truncatingIfNeeded: sum.bitPattern &- 0x3f00_0000)
        }
        let odd = (rest >> 13) & 1
        return sign | UInt16(truncatingIfNeeded: (rest &- 0x3800_0000 &+ 0xfff &+ odd) >> 13)
    }
}
