// Runs what SIGEKit does before and after its models, as a script of lines says, one answer a line: tests/runtimes/test_swift.py
// compares answers and arrays with Python's.
import Foundation
import SIGECore

/// Arrays of an answer, as a safetensors file.
func write(_ arrays: [(String, Tensor)], to path: String) throws {
    var header = "{"
    var data: [UInt8] = []
    for (name, tensor) in arrays {
        let start = data.count
        data += tensor.bytes
        header += header == "{" ? "" : ","
        header += "\"\(name)\":{\"dtype\":\"\(tensor.dtype.saved)\",\"shape\":\(tensor.shape),"
        header += "\"data_offsets\":[\(start),\(data.count)]}"
    }
    header += "}"
    let length = UInt64(header.utf8.count).littleEndian
    var bytes = withUnsafeBytes(of: length) { [UInt8]($0) }
    bytes += Array(header.utf8) + data
    try Data(bytes).write(to: URL(fileURLWithPath: path))
}

func tensor<T>(_ dtype: DType, _ shape: [Int], _ values: [T]) throws -> Tensor {
    try Tensor(dtype, shape: shape, bytes: values.withUnsafeBytes { [UInt8]($0) })
}

/// The tensors whose names start with `prefix`, by the rest of their names.
func part(_ tensors: Safetensors, _ prefix: String) throws -> Tensors {
    var result: Tensors = [:]
    for name in tensors.names where name.hasPrefix(prefix) {
        result[String(name.dropFirst(prefix.count))] = try tensors.tensor(name)
    }
    return result
}

func mask(_ tensor: Tensor) throws -> Mask {
    try Mask(height: tensor.shape[0], width: tensor.shape[1], pixels: tensor.bytes)
}

/// An edit of the tensors of a file, up to its tables and rows; results into another file.
func edit(_ bundle: SigeBundle, _ from: String, _ to: String, bucketed: Bool) throws -> String {
    let tensors = try Safetensors(at: from)
    let (given, recorded) = (try part(tensors, "given."), try part(tensors, "recorded."))
    let manifest = bundle.manifest
    let mask = tensors.has("mask") ? try mask(try tensors.tensor("mask")) : nil
    try manifest.check(given)
    if let mask { try manifest.check(mask) }
    try manifest.checkPinned(given, recorded: recorded)
    let geometries = try bundle.geometries()
    let edited = manifest.editedPixels(given, recorded: recorded, mask: mask)
    let indexer = Indexer(manifest, geometries)
    let masks = indexer.activate(edited)
    let counts = masks.map(\.count)
    let free = manifest.inputs.contains { $0.role == .free && given[$0.name] != recorded[$0.name] }
    let (path, fraction) = manifest.judge(counts, freeChanged: mask == nil && free)
    var rows = counts.map(padded)
    var bucket = -1
    if bucketed {
        let models = try CoreMLFolder(of: bundle)
        let buckets = Buckets(models.buckets.map { sizes in manifest.levels.map { sizes[$0.id]! } })
        guard let fit = buckets.fit(counts) else { return "ok no bucket" }
        (bucket, rows) = (fit.bucket, buckets.rows[fit.bucket])
    }
    let indices = indexer.tables(masks, rows: rows)
    var results: [(String, Tensor)] = []
    for (level, active) in indices.active { results.append(("active.\(level)", try tensor(.int32, [active.count], active))) }
    for (id, halo) in indices.halos { results.append(("halo.\(id)", try tensor(.int32, [halo.count], halo))) }
    for geometry in geometries {
        let shape = [indices.active[geometry.target]!.count, geometry.taps]
        results.append(("table.\(geometry.id)", try tensor(.int32, shape, indices.tables[geometry.id]!)))
        if let weights = indices.weights[geometry.id] {
            results.append(("weights.\(geometry.id)", try tensor(.float32, shape, weights)))
        }
    }
    for spec in manifest.spatial {
        let active = Array(indices.active[spec.level!]!.prefix(indices.counts[spec.level!]!))
        results.append(("rows.\(spec.name)", given[spec.name]!.rows(Offsets(spec), at: active)))
    }
    for spec in manifest.outputs where spec.level != nil && tensors.has("output.\(spec.name)") {
        var output = try tensors.tensor("output.\(spec.name)")
        let active = Array(indices.active[spec.level!]!.prefix(indices.counts[spec.level!]!))
        try output.put(try tensors.tensor("fresh.\(spec.name)"), Offsets(spec), at: active)
        results.append(("output.\(spec.name)", output))
    }
    try write(results, to: to)
    return "ok \(path.rawValue) \(String(fraction.bitPattern, radix: 16)) \(bucket) \(counts)"
}

func answer(_ words: [String]) throws -> String {
    switch words[0] {
    case "open":
        _ = try SigeBundle(at: words[1]).geometries()
        return "ok done"
    case "models":
        let folder = try CoreMLFolder(of: try SigeBundle(at: words[1]))
        return "ok \(folder.context) \(folder.buckets.count) \(folder.record ?? "none")"
    case "id": return "ok \(try SigeBundle(at: words[1]).manifest.bundleID)"
    case "edit": return try edit(try SigeBundle(at: words[1]), words[2], words[3], bucketed: false)
    case "bucket": return try edit(try SigeBundle(at: words[1]), words[2], words[3], bucketed: true)
    case "resample":  // file, height, width, threshold, result
        let from = try mask(try Safetensors(at: words[1]).tensor("mask"))
        let made = from.resampled(height: Int(words[2])!, width: Int(words[3])!, threshold: Double(words[4])!)
        try write([("mask", try tensor(.uint8, [made.height, made.width], made.pixels))], to: words[5])
        return "ok done"
    case "halves":  // file, result
        let given = try Safetensors(at: words[1])
        let floats = try Tensor(shape: [1 << 16], floats: try given.tensor("halves").floats())
        let halves = try given.tensor("floats").halves()
        let made = [("floats", floats), ("halves", try tensor(.float16, [halves.count], halves))]
        try write(made, to: words[2])
        return "ok done"
    default: return "unknown"
    }
}

while let line = readLine() {
    do {
        print(try answer(line.split(separator: "\t").map(String.init)))
    } catch let error as SigeError {
        print(error.kind.rawValue, error.sentence)
    }
}
