/// Where entry (image, pixel (y, x), channel) of an array lies in it: at n[b] + y[y] + x[x] + c[c], in elements.
public struct Offsets: Sendable {
    public let n: [Int]
    public let y: [Int]
    public let x: [Int]
    public let c: [Int]

    /// Of a spatial input.
    public init(_ spec: InputSpec) {
        self.init(zip(spec.axes, spec.shape).map { Atom(kind: $0, size: $1) }, order: nil)
    }

    /// Of a spatial output; channels in the rows' order.
    public init(_ spec: OutputSpec) { self.init(Array(spec.layout.joined()), order: spec.order) }

    private init(_ atoms: [Atom], order: [Int]?) {
        func offsets(_ kind: Kind) -> [Int] {
            var parts: [(size: Int, stride: Int)] = []
            var stride = 1
            for atom in atoms.reversed() {
                if atom.kind == kind { parts.insert((atom.size, stride), at: 0) }
                stride *= atom.size
            }
            if kind == .channel, let order { parts = order.map { parts[$0] } }
            return parts.reduce([0]) { done, part in
                done.flatMap { offset in (0..<part.size).map { offset + $0 * part.stride } }
            }
        }
        n = offsets(.batch)
        y = offsets(.y)
        x = offsets(.x)
        c = offsets(.channel)
    }

    /// Calls `move(at in the dense array, at in the rows)`, in elements, for rows [B, P, C] of these pixels.
    func each(_ active: [Int32], _ move: (Int, Int) -> Void) {
        var row = 0
        for image in n {
            for pixel in active {
                let start = image + y[Int(pixel) / x.count] + x[Int(pixel) % x.count]
                for channel in c {
                    move(start + channel, row)
                    row += 1
                }
            }
        }
    }
}

extension Tensor {
    /// Rows [B, P, C] of this dense array at the pixels `active`, y * width + x.
    public func rows(_ offsets: Offsets, at active: [Int32]) -> Tensor {
        var rows = Tensor(zeros: dtype, shape: [offsets.n.count, active.count, offsets.c.count])
        let size = dtype.size
        bytes.withUnsafeBytes { from in
            rows.bytes.withUnsafeMutableBytes { to in
                guard let from = from.baseAddress, let to = to.baseAddress else { return }
                offsets.each(active) { (to + $1 * size).copyMemory(from: from + $0 * size, byteCount: size) }
            }
        }
        return rows
    }

    /// Writes rows [B, P, C] into this dense array at the pixels `active`, of which there may be fewer than P.
    public mutating func put(_ rows: Tensor, _ offsets: Offsets, at active: [Int32]) throws {
        let wanted = [offsets.n.count, active.count, offsets.c.count]
        guard rows.dtype == dtype, rows.shape == wanted else {
            throw SigeError(
                .runtime,
                "the edit graph gave rows \(rows.dtype.rawValue) of shape \(rows.shape), expected \(dtype.rawValue) of "
                    + "shape \(wanted); export the bundle anew.")
        }
        let size = dtype.size
        rows.bytes.withUnsafeBytes { from in
            bytes.withUnsafeMutableBytes { to in
                guard let from = from.baseAddress, let to = to.baseAddress else { return }
                offsets.each(active) { (to + $0 * size).copyMemory(from: from + $1 * size, byteCount: size) }
            }
        }
    }
}
