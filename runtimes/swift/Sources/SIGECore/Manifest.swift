/// What an axis of a dense array counts: batch, rows, columns or channels.
public enum Kind: String, CaseIterable, Sendable {
    case batch = "N"
    case y = "Y"
    case x = "X"
    case channel = "C"
}

/// One factor of a dense axis.
public struct Atom: Equatable, Sendable {
    public let kind: Kind
    public let size: Int
}

/// One file of a bundle.
public struct FileSpec: Equatable, Sendable {
    /// SHA-256 of its contents, hexadecimal.
    public let sha256: String
    public let bytes: Int
}

/// A model input.
public struct InputSpec: Sendable {
    /// How an input may change.
    public enum Role: String, Sendable {
        /// An edited image.
        case spatial
        /// Must stay as recorded.
        case pinned
        /// May change with every edit.
        case free
    }

    public let name: String
    public let shape: [Int]
    public let dtype: DType
    public let role: Role
    /// Of a spatial input.
    public let level: String?
    /// What each axis of a spatial input counts.
    public let axes: [Kind]
    /// Why it is pinned.
    public let reason: String?

    /// Size along the axis of a kind, 1 where there is none.
    public func size(_ kind: Kind) -> Int { axes.firstIndex(of: kind).map { shape[$0] } ?? 1 }
}

/// A model output. Of a spatial one, which has a level, the edit graph returns rows, named `rows.<name>`.
public struct OutputSpec: Sendable {
    public let name: String
    public let shape: [Int]
    public let dtype: DType
    public let level: String?
    /// The atoms of each dense axis, outer first.
    public let layout: [[Atom]]
    /// The rows' channels, slowest first, as indices into the channel atoms in reading order.
    public let order: [Int]

    /// Name of the edit graph's output.
    public var rows: String { level == nil ? name : "rows.\(name)" }

    /// Product of the sizes of all atoms of a kind.
    public func size(_ kind: Kind) -> Int {
        layout.joined().filter { $0.kind == kind }.reduce(1) { $0 * $1.size }
    }
}

/// A spatial resolution, in pixels.
public struct LevelSpec: Sendable {
    public let id: String
    public let height: Int
    public let width: Int
    /// The geometry that decides its mask; nil: the mask is resampled from the inputs' masks.
    public let geometry: String?
    public let granularity: Int
    public let dilation: Int
    public let threshold: Double
    /// Dense multiply-adds that are spent here.
    public let macs: Int

    public var pixels: Int { height * width }
}

/// A neighbourhood that level `target` reads at level `source`.
public struct GeometrySpec: Sendable {
    public let id: String
    public let source: String
    public let target: String
}

/// An array that a record keeps for edits: a base [B, H * W, C] of a level, or anything else.
public struct CacheSpec: Sendable {
    public let name: String
    public let base: Bool
    public let shape: [Int]
    public let dtype: DType
    public let level: String?
    /// The edit graph's output with its fresh rows; nil: an edit never changes it.
    public let rows: String?
    /// Channels of `rows`, where they have more than the cache; nil: as many.
    public let rowsChannels: Int?
    /// The first of them that is the cache's.
    public let rowsOffset: Int
    /// The geometries through whose halos alone edits read it; nil: it is read whole, or not known.
    public let reads: [String]?
}

/// Everything that a session must know about a bundle before it loads a model: `manifest.json`, checked whole as
/// `sige_deploy/manifest.py` checks it. What only people read is not kept.
public struct Manifest: Sendable {
    public static let schemaVersion: Int64 = 1
    public static let opSetVersion: Int64 = 1

    public let name: String
    public let inputs: [InputSpec]
    public let outputs: [OutputSpec]
    public let levels: [LevelSpec]
    public let geometries: [GeometrySpec]
    public let caches: [CacheSpec]
    /// Inputs differ where |difference| > eps.
    public let eps: Double
    /// Dilation of masks at their own size, in pixels.
    public let dilate: Int
    public let threshold: Double
    /// Active fraction of multiply-adds above which an edit runs dense, on a GPU.
    public let gpuDenseAbove: Double
    public let files: [String: FileSpec]

    /// The spatial inputs, in order; the first one's size is the size of a given mask.
    public var spatial: [InputSpec] { inputs.filter { $0.role == .spatial } }

    /// The level of an id that is listed.
    public func level(_ id: String) -> LevelSpec { levels.first { $0.id == id }! }

    /// SHA-256 of the file list, hexadecimal: two bundles with the same id hold the same files.
    public var bundleID: String {
        // The text that Python's json.dumps(..., sort_keys=True) gives.
        let entries = files.keys.sorted(by: precedes).map {
            "\"\(escaped($0))\": {\"bytes\": \(files[$0]!.bytes), \"sha256\": \"\(files[$0]!.sha256)\"}"
        }
        return SHA256Sum.hex(of: Array("{\(entries.joined(separator: ", "))}".utf8))
    }

    /// Share of the dense multiply-adds that an edit touches: sum of macs * active / pixels over the levels, divided by
    /// the sum of macs; a network without multiply-adds is weighed by its pixels. counts: active pixels of each level.
    public func activeFraction(_ counts: [Int]) -> Double {
        let counted = levels.contains { $0.macs > 0 }
        var touched = 0.0
        var total = 0
        for (level, count) in zip(levels, counts) {
            let work = counted ? level.macs : level.pixels
            touched += Double(work) * (Double(count) / Double(level.pixels))
            total += work
        }
        return touched / Double(total)
    }
}

/// A text inside the quotes of ASCII JSON.
private func escaped(_ text: String) -> String {
    var result = ""
    for unit in text.utf16 {
        switch unit {
        case 0x22: result += "\\\""
        case 0x5C: result += "\\\\"
        case 0x08: result += "\\b"
        case 0x0C: result += "\\f"
        case 0x0A: result += "\\n"
        case 0x0D: result += "\\r"
        case 0x09: result += "\\t"
        case 0x20..<0x7F: result.unicodeScalars.append(UnicodeScalar(UInt8(unit)))
        default:
            let hex = String(unit, radix: 16)
            result += "\\u" + String(repeating: "0", count: 4 - hex.count) + hex
        }
    }
    return result
}
