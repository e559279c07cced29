/// Padded length for n entries: 0 stays 0, otherwise n rounded up to a multiple of max(8, 2^floor(log2 n) / 16).
public func padded(_ n: Int) -> Int {
    if n == 0 { return 0 }
    let step = max(8, 1 << (Int.bitWidth - 1 - n.leadingZeroBitCount) / 16)
    return (n + step - 1) / step * step
}

/// Where an edit reads: active pixels, halos and neighbour tables, as `docs/masks.md` defines them.
public struct EditIndices: Sendable {
    /// By level, [P]: the active pixels, ascending, padded by repeating the last.
    public internal(set) var active: [String: [Int32]] = [:]
    /// By geometry, [Q]: the pixels that are read and not active, ascending, padded with pixel 0 to `padded(Q)`.
    public internal(set) var halos: [String: [Int32]] = [:]
    /// By geometry, [R, K]: where to read, as an index into the P fresh rows and the halo behind them, or -1.
    public internal(set) var tables: [String: [Int32]] = [:]
    /// By weighted geometry, [R, K]: what is read is multiplied by.
    public internal(set) var weights: [String: [Float]] = [:]
    /// By level: the active pixels without padding.
    public internal(set) var counts: [String: Int] = [:]
    /// By geometry: the halo's pixels without padding.
    public internal(set) var haloCounts: [String: Int] = [:]
}

/// Turns the levels' masks into index tables.
public struct Indexer: Sendable {
    private let manifest: Manifest
    private let geometries: [Geometry]

    /// geometries: those of the manifest's bundle.
    public init(_ manifest: Manifest, _ geometries: [Geometry]) {
        self.manifest = manifest
        self.geometries = geometries
    }

    /// The active mask of every level, in order. masks: the edited pixels of each spatial input at its own size.
    public func activate(_ masks: [Mask]) -> [Mask] { manifest.levelMasks(masks, geometries) }

    /// The tables of an edit. masks: of `activate`. rows: the padded number of rows of each level, at least its active
    /// pixels; lists of a level without active pixels are padded with 0. only: the geometries wanted; nil: all.
    public func tables(_ masks: [Mask], rows: [Int], only: Set<String>? = nil) -> EditIndices {
        var result = EditIndices()
        for (index, level) in manifest.levels.enumerated() {
            var active = masks[index].active
            result.counts[level.id] = active.count
            active += [Int32](repeating: active.last ?? 0, count: rows[index] - active.count)
            result.active[level.id] = active
        }
        // One map a level, shared by the geometries that read it: what reading a pixel yields.
        var codes: [String: [Int32]] = [:]
        for geometry in geometries where only?.contains(geometry.id) ?? true {
            if codes[geometry.source] == nil { codes[geometry.source] = codeMap(geometry.source, result) }
            read(geometry, &codes[geometry.source]!, &result)
        }
        return result
    }

    private static let inactive: Int32 = -2
    private static let wanted: Int32 = -3

    private func codeMap(_ id: String, _ indices: EditIndices) -> [Int32] {
        var codes = [Int32](repeating: Indexer.inactive, count: manifest.level(id).pixels)
        for (row, pixel) in indices.active[id]!.prefix(indices.counts[id]!).enumerated() {
            codes[Int(pixel)] = Int32(row)
        }
        return codes
    }

    /// The table and halo of one geometry. codes: the source's map, as it was before when this returns.
    private func read(_ geometry: Geometry, _ codes: inout [Int32], _ result: inout EditIndices) {
        let targets = result.active[geometry.target]!.prefix(result.counts[geometry.target]!)
        let base = Int32(result.active[geometry.source]!.count)
        let (y, x) = (geometry.y, geometry.x)
        var table = [Int32](repeating: -1, count: targets.count * geometry.taps)
        var halo: [Int32] = []
        codes.withUnsafeMutableBufferPointer { codes in
            table.withUnsafeMutableBufferPointer { table in
                func eachTap(_ visit: (_ entry: Int, _ pixel: Int) -> Void) {
                    var entry = 0
                    for target in targets {
                        let rows = Int(target) / x.outputs * y.taps
                        let columns = Int(target) % x.outputs * x.taps
                        for i in 0..<y.taps {
                            let row = Int(y.index[rows + i])
                            for j in 0..<x.taps {
                                let column = Int(x.index[columns + j])
                                if row >= 0 && column >= 0 { visit(entry, row * x.source + column) }
                                entry += 1
                            }
                        }
                    }
                }
                eachTap { entry, pixel in
                    if codes[pixel] == Indexer.inactive {
                        codes[pixel] = Indexer.wanted
                        halo.append(Int32(pixel))
                    }
                }
                halo.sort()
                for (place, pixel) in halo.enumerated() { codes[Int(pixel)] = base + Int32(place) }
                eachTap { entry, pixel in table[entry] = codes[pixel] }
                for pixel in halo { codes[Int(pixel)] = Indexer.inactive }
            }
        }
        if geometry.phases > 1 { addPhases(geometry, targets, &table) }
        let missing = result.active[geometry.target]!.count - targets.count
        if geometry.weighted {
            result.weights[geometry.id] = repeated(weights(geometry, targets), geometry.taps, missing)
        }
        result.tables[geometry.id] = repeated(table, geometry.taps, missing)
        result.haloCounts[geometry.id] = halo.count
        result.halos[geometry.id] = halo + [Int32](repeating: 0, count: padded(halo.count) - halo.count)
    }

    private func addPhases(_ geometry: Geometry, _ targets: ArraySlice<Int32>, _ table: inout [Int32]) {
        let (y, x) = (geometry.y, geometry.x)
        for (row, target) in targets.enumerated() {
            var phase: Int32 = 0
            if !y.phase.isEmpty { phase += y.phase[Int(target) / x.outputs] * Int32(x.phases) }
            if !x.phase.isEmpty { phase += x.phase[Int(target) % x.outputs] }
            for entry in row * geometry.taps..<(row + 1) * geometry.taps where table[entry] >= 0 {
                table[entry] = table[entry] * Int32(geometry.phases) + phase
            }
        }
    }

    private func weights(_ geometry: Geometry, _ targets: ArraySlice<Int32>) -> [Float] {
        let (y, x) = (geometry.y, geometry.x)
        return targets.flatMap { target in
            (0..<geometry.taps).map { k in
                let row = Int(target) / x.outputs * y.taps + k / x.taps
                let column = Int(target) % x.outputs * x.taps + k % x.taps
                return (y.weight.isEmpty ? 1 : y.weight[row]) * (x.weight.isEmpty ? 1 : x.weight[column])
            }
        }
    }
}

/// The values with their last `width` ones `times` more behind them; zeros where there are none.
private func repeated<T: ExpressibleByIntegerLiteral>(_ values: [T], _ width: Int, _ times: Int) -> [T] {
    let last = values.isEmpty ? [T](repeating: 0, count: width) : Array(values.suffix(width))
    return values + [[T]](repeating: last, count: times).joined()
}
