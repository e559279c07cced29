/// Which pixels of an image are meant; `docs/masks.md` defines what is made of them.
public struct Mask: Equatable, Sendable {
    public let height: Int
    public let width: Int
    /// 1 where a pixel is meant, else 0; row by row.
    public internal(set) var pixels: [UInt8]

    /// A mask without any pixel.
    public init(height: Int, width: Int) {
        self.height = height
        self.width = width
        pixels = [UInt8](repeating: 0, count: height * width)
    }

    /// A mask of the pixels where `pixels`, row by row, is not 0; throws kind `input` for another number of them.
    public init(height: Int, width: Int, pixels: [UInt8]) throws {
        guard height > 0, width > 0, pixels.count == height * width else {
            throw SigeError(
                .input, "a mask of \(height) x \(width) pixels has \(height * width) bytes, not \(pixels.count).")
        }
        self.height = height
        self.width = width
        self.pixels = pixels.map { $0 != 0 ? 1 : 0 }
    }

    /// Sets or clears the pixel (y, x).
    public subscript(y: Int, x: Int) -> Bool {
        get { pixels[y * width + x] != 0 }
        set { pixels[y * width + x] = newValue ? 1 : 0 }
    }

    /// Number of pixels that are meant.
    public var count: Int { pixels.reduce(0) { $0 + Int($1) } }

    /// The pixels that are meant, ascending, as y * width + x.
    public var active: [Int32] {
        pixels.indices.compactMap { pixels[$0] != 0 ? Int32($0) : nil }
    }

    /// First and last row and column that hold a pixel; nil for an empty mask.
    var box: (rows: Range<Int>, columns: Range<Int>)? {
        var (top, bottom, left, right) = (height, 0, width, 0)
        for y in 0..<height {
            let row = pixels[y * width..<(y + 1) * width]
            guard let first = row.firstIndex(where: { $0 != 0 }), let last = row.lastIndex(where: { $0 != 0 }) else {
                continue
            }
            top = min(top, y)
            bottom = y + 1
            left = min(left, first - y * width)
            right = max(right, last - y * width + 1)
        }
        return bottom > 0 ? (top..<bottom, left..<right) : nil
    }

    /// The pixels that are in this mask or in another of the same size.
    func union(_ other: Mask) -> Mask {
        var result = self
        for i in pixels.indices { result.pixels[i] |= other.pixels[i] }
        return result
    }

    /// Dilation by a cross: the pixels within `radius` of one of these along the row or along the column.
    public func dilated(by radius: Int) -> Mask {
        guard radius > 0, let box else { return self }
        var result = self
        for y in box.rows {
            for x in box.columns where pixels[y * width + x] != 0 {
                for other in max(x - radius, 0)...min(x + radius, width - 1) { result.pixels[y * width + other] = 1 }
                for other in max(y - radius, 0)...min(y + radius, height - 1) { result.pixels[other * width + x] = 1 }
            }
        }
        return result
    }

    /// Whole blocks of `granularity` x `granularity` pixels, from pixel 0 on, in which there is any of these.
    public func granulated(_ granularity: Int) -> Mask {
        guard granularity > 1 else { return self }
        var result = self
        for top in stride(from: 0, to: height, by: granularity) {
            for left in stride(from: 0, to: width, by: granularity) {
                let rows = top..<min(top + granularity, height)
                let columns = left..<min(left + granularity, width)
                guard rows.contains(where: { y in columns.contains { pixels[y * width + $0] != 0 } }) else { continue }
                for y in rows { for x in columns { result.pixels[y * width + x] = 1 } }
            }
        }
        return result
    }

    /// The mask at another size: a pixel covers a box of this one; it is in where the share of the box that is meant,
    /// computed in whole numbers, is above max(0, min(threshold, largest share - 0.001)).
    public func resampled(height h: Int, width w: Int, threshold: Double) -> Mask {
        let margin = 0.001
        if (h, w) == (height, width) { return self }
        var result = Mask(height: h, width: w)
        guard let box else { return result }
        if h % height == 0, w % width == 0 {
            let (ry, rx) = (h / height, w / width)
            for y in 0..<h { for x in 0..<w { result.pixels[y * w + x] = pixels[y / ry * width + x / rx] } }
            return result
        }
        let rows = covered(pixels.map { Int($0) }, height, width, to: h, within: box.rows)
        let sums = transposed(
            covered(transposed(rows, h, width), width, h, to: w, within: box.columns), w, h)
        let area = Double(height * width)
        let limit = max(0, min(threshold, Double(sums.max()!) / area - margin))
        for i in sums.indices { result.pixels[i] = Double(sums[i]) / area > limit ? 1 : 0 }
        return result
    }

    /// The target pixels of a geometry that read any of these source pixels.
    public func reading(_ geometry: Geometry) -> Mask {
        let (y, x) = (geometry.y, geometry.x)
        var across = Mask(height: height, width: x.outputs)
        for row in 0..<height {
            for column in 0..<x.outputs {
                let reads = x.index[column * x.taps..<(column + 1) * x.taps]
                if reads.contains(where: { $0 >= 0 && pixels[row * width + Int($0)] != 0 }) {
                    across.pixels[row * x.outputs + column] = 1
                }
            }
        }
        var result = Mask(height: y.outputs, width: x.outputs)
        for row in 0..<y.outputs {
            for source in y.index[row * y.taps..<(row + 1) * y.taps] where source >= 0 {
                for column in 0..<x.outputs {
                    result.pixels[row * x.outputs + column] |= across.pixels[Int(source) * x.outputs + column]
                }
            }
        }
        return result
    }
}

/// Area-weighted sums of `values` [n, inner] along the first axis: [outputs, inner], in units of 1 / outputs rows. Row o
/// covers the positions o * n / outputs to (o + 1) * n / outputs. within: the rows that are not all 0.
private func covered(_ values: [Int], _ n: Int, _ inner: Int, to outputs: Int, within rows: Range<Int>) -> [Int] {
    var sums = [Int](repeating: 0, count: outputs * inner)
    for o in 0..<outputs {
        var source = max(o * n / outputs, rows.lowerBound)
        while source < rows.upperBound, source * outputs < (o + 1) * n {
            let share = min((source + 1) * outputs, (o + 1) * n) - max(source * outputs, o * n)
            for i in 0..<inner { sums[o * inner + i] += share * values[source * inner + i] }
            source += 1
        }
    }
    return sums
}

private func transposed(_ values: [Int], _ rows: Int, _ columns: Int) -> [Int] {
    var result = values
    for y in 0..<rows { for x in 0..<columns { result[x * rows + y] = values[y * columns + x] } }
    return result
}

extension Manifest {
    /// The active mask of every level, in order, from the edited pixels of each spatial input at its own size.
    public func levelMasks(_ masks: [Mask], _ geometries: [Geometry]) -> [Mask] {
        let grown = masks.map { $0.dilated(by: dilate) }
        var done: [String: Mask] = [:]
        func resolve(_ level: LevelSpec) -> Mask {
            if let mask = done[level.id] { return mask }
            var mask: Mask
            if let id = level.geometry {
                let geometry = geometries.first { $0.id == id }!
                mask = resolve(self.level(geometry.source)).reading(geometry)
            } else {
                let parts = zip(masks, grown).map { at(level, $0, grown: $1) }
                mask = parts.dropFirst().reduce(parts[0]) { $0.union($1) }
            }
            mask = mask.granulated(level.granularity)
            done[level.id] = mask
            return mask
        }
        return levels.map(resolve)
    }

    /// One input's mask at a level; `grown` is it after the dilation at its own size.
    private func at(_ level: LevelSpec, _ mask: Mask, grown: Mask) -> Mask {
        if mask.height == level.height && mask.width == level.width { return grown }
        let larger = level.height >= mask.height && level.width >= mask.width
        return (larger ? grown : mask)
            .resampled(height: level.height, width: level.width, threshold: threshold)
            .dilated(by: level.dilation)
    }
}
