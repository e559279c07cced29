#if canImport(CryptoKit)
import CryptoKit
#endif

/// A running SHA-256 (FIPS 180-4): CryptoKit's where there is one, or this one on Linux, where the package is tested.
struct SHA256Sum {
    #if canImport(CryptoKit)
    private var hasher = SHA256()

    mutating func add(_ bytes: [UInt8]) { hasher.update(data: bytes) }

    func hex() -> String { hasher.finalize().map(twoDigits).joined() }
    #else
    private var state: [UInt32] = [
        0x6a09_e667, 0xbb67_ae85, 0x3c6e_f372, 0xa54f_f53a, 0x510e_527f, 0x9b05_688c, 0x1f83_d9ab, 0x5be0_cd19,
    ]
    private var rest: [UInt8] = []
    private var count: UInt64 = 0

    mutating func add(_ bytes: [UInt8]) {
        count += UInt64(bytes.count)
        rest += bytes
        let whole = rest.count / 64 * 64
        for start in stride(from: 0, to: whole, by: 64) { mix(rest[start..<start + 64]) }
        rest.removeFirst(whole)
    }

    func hex() -> String {
        var last = self
        let bits = count * 8
        let zeros = (119 - Int(count % 64)) % 64
        last.add([0x80] + [UInt8](repeating: 0, count: zeros))
        last.add((0..<8).map { UInt8(truncatingIfNeeded: bits >> (56 - 8 * $0)) })
        return last.state.flatMap { word in (0..<4).map { UInt8(truncatingIfNeeded: word >> (24 - 8 * $0)) } }
            .map(twoDigits).joined()
    }

    private mutating func mix(_ block: ArraySlice<UInt8>) {
        var w = [UInt32](repeating: 0, count: 64)
        for (i, byte) in block.enumerated() { w[i / 4] |= UInt32(byte) << UInt32(24 - 8 * (i % 4)) }
        func turned(_ x: UInt32, _ n: UInt32) -> UInt32 { x >> n | x << (32 - n) }
        for i in 16..<64 {
            let s0 = turned(w[i - 15], 7) ^ turned(w[i - 15], 18) ^ w[i - 15] >> 3
            let s1 = turned(w[i - 2], 17) ^ turned(w[i - 2], 19) ^ w[i - 2] >> 10
            w[i] = w[i - 16] &+ s0 &+ w[i - 7] &+ s1
        }
        var (a, b, c, d) = (state[0], state[1], state[2], state[3])
        var (e, f, g, h) = (state[4], state[5], state[6], state[7])
        for i in 0..<64 {
            let s1 = turned(e, 6) ^ turned(e, 11) ^ turned(e, 25)
            let first = h &+ s1 &+ (e & f ^ ~e & g) &+ SHA256Sum.constants[i] &+ w[i]
            let s0 = turned(a, 2) ^ turned(a, 13) ^ turned(a, 22)
            let second = s0 &+ (a & b ^ a & c ^ b & c)
            (h, g, f, e, d, c, b, a) = (g, f, e, d &+ first, c, b, a, first &+ second)
        }
        for (i, value) in [a, b, c, d, e, f, g, h].enumerated() { state[i] &+= value }
    }

    /// The first 32 bits of the fractional parts of the cube roots of the first 64 primes.
    private static let constants: [UInt32] = primes(64).map { prime in
        // floor(2^32 * cbrt(p)) in whole numbers: the largest r with r^3 <= p * 2^96.
        var root: UInt64 = 0
        for bit in stride(from: UInt64(34), through: 0, by: -1) {
            let candidate = root | 1 << bit
            if cube(candidate, isAtMost: prime) { root = candidate }
        }
        return UInt32(truncatingIfNeeded: root)
    }

    private static func primes(_ count: Int) -> [UInt64] {
        var found: [UInt64] = []
        var next: UInt64 = 2
        while found.count < count {
            if !found.contains(where: { next % $0 == 0 }) { found.append(next) }
            next += 1
        }
        return found
    }

    /// Whether x^3 <= p * 2^96, for x below 2^36.
    private static func cube(_ x: UInt64, isAtMost p: UInt64) -> Bool {
        let square = x.multipliedFullWidth(by: x)
        let low = square.low.multipliedFullWidth(by: x)
        let high = square.high &* x &+ low.high  // bits 64 and above
        let limit = p << 32
        return high < limit || (high == limit && low.low == 0)
    }
    #endif

    static func hex(of bytes: [UInt8]) -> String {
        var sum = SHA256Sum()
        sum.add(bytes)
        return sum.hex()
    }
}

private func twoDigits(_ byte: UInt8) -> String {
    let text = String(byte, radix: 16)
    return text.count < 2 ? "0" + text : text
}
