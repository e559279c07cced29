/// Taps along one axis.
public struct AxisTaps: Equatable, Sendable {
    /// The source coordinate that each tap reads, or -1 for padding: [outputs, taps].
    public let index: [Int32]
    /// What each tap is multiplied by, [outputs, taps]; empty: nothing.
    public let weight: [Float]
    /// Which block of the source's channels each output reads, [outputs]; empty: there is one block.
    public let phase: [Int32]
    public let outputs: Int
    public let taps: Int
    /// Number of source coordinates.
    public let source: Int
    public let phases: Int
}

/// Taps of both axes, from the pixels of level `target` into those of level `source` (`sige_deploy/geometry.py`). Taps
/// are in row-major order, y outer; the phase of a target pixel is y's * x.phases + x's, the weight of a tap the product
/// of both axes' weights.
public struct Geometry: Sendable {
    public let id: String
    public let source: String
    public let target: String
    public let y: AxisTaps
    public let x: AxisTaps

    public var taps: Int { y.taps * x.taps }
    public var phases: Int { y.phases * x.phases }
    public var weighted: Bool { !y.weight.isEmpty || !x.weight.isEmpty }

    /// The geometries of a manifest, in its order; throws kind `bundle` where they or the levels do not fit.
    static func read(_ path: String, for manifest: Manifest) throws -> [Geometry] {
        let tensors = try Safetensors(at: path)
        let geometries = try manifest.geometries.map { spec in
            do {
                return Geometry(
                    id: spec.id, source: spec.source, target: spec.target,
                    y: try AxisTaps(tensors, spec.id + ".y"), x: try AxisTaps(tensors, spec.id + ".x"))
            } catch let error as Damaged {
                throw SigeError(
                    .bundle, "Geometry \(named(spec.id)) is damaged (\(error.what)); export the bundle again.")
            }
        }
        try checkFit(geometries, manifest)
        return geometries
    }

    private static func checkFit(_ geometries: [Geometry], _ manifest: Manifest) throws {
        for g in geometries {
            for (id, height, width) in [(g.source, g.y.source, g.x.source), (g.target, g.y.outputs, g.x.outputs)] {
                let level = manifest.level(id)
                if level.height != height || level.width != width {
                    throw SigeError(
                        .bundle,
                        "Geometry \(named(g.id)) needs a level \(named(id)) of (\(height), \(width)); "
                            + "export the bundle again.")
                }
            }
        }
        for first in manifest.levels {
            var level = first
            var seen: Set<String> = []
            while let id = level.geometry {
                guard let found = geometries.first(where: { $0.id == id }), found.target == level.id,
                    seen.insert(level.id).inserted
                else {
                    throw SigeError(
                        .bundle,
                        "Level \(named(level.id)) names geometry \(named(id)), which does not lead to it; "
                            + "export the bundle again.")
                }
                level = manifest.level(found.source)
            }
        }
    }
}

extension AxisTaps {
    private static let mostTaps = 1 << 12

    /// Everything that `AxisTaps` of `sige_deploy/geometry.py` promises is checked here; throws `Damaged`.
    fileprivate init(_ tensors: Safetensors, _ prefix: String) throws {
        func integers(_ name: String) throws -> ([Int32], [Int]) {
            let tensor = try tensors.read("\(prefix).\(name)")
            guard tensor.dtype == .int32 else {
                throw Damaged(what: "\(prefix).\(name) has type \(tensor.dtype.rawValue)")
            }
            return (tensor.values(Int32.self), tensor.shape)
        }
        let (pair, _) = try integers("shape")
        guard pair.count == 2, pair[0] >= 1, pair[1] >= 1 else {
            throw Damaged(what: "\(prefix).shape is no source size and phases")
        }
        let (index, shape) = try integers("index")
        guard shape.count == 2, shape[0] >= 1, shape[1] >= 1, shape[0] <= Int32.max, shape[1] <= AxisTaps.mostTaps
        else { throw Damaged(what: "Taps need an index of shape [n_out, k] with both positive, got \(shape).") }
        if index.min()! < -1 || index.max()! >= pair[0] {
            throw Damaged(
                what: "Taps read coordinates \(index.min()!)..\(index.max()!) of a source of \(pair[0]).")
        }
        var weight: [Float] = []
        if tensors.has("\(prefix).weight") {
            let tensor = try tensors.read("\(prefix).weight")
            guard tensor.dtype == .float32 else {
                throw Damaged(what: "\(prefix).weight has type \(tensor.dtype.rawValue)")
            }
            weight = tensor.values(Float.self)
            if tensor.shape != shape || !weight.allSatisfy(\.isFinite) {
                throw Damaged(what: "Tap weights must be finite and of shape \(shape).")
            }
        }
        var phase: ([Int32], [Int]) = ([], [])
        if tensors.has("\(prefix).phase") { phase = try integers("phase") }
        if phase.0.isEmpty != (pair[1] == 1) {
            throw Damaged(what: "Phases must be given exactly when there are several, got n_phases=\(pair[1]).")
        }
        if !phase.0.isEmpty, phase.1 != [shape[0]] || !phase.0.allSatisfy({ $0 >= 0 && $0 < pair[1] }) {
            throw Damaged(what: "Phases must be [\(shape[0])] values in 0..\(pair[1] - 1).")
        }
        self.init(
            index: index, weight: weight, phase: phase.0, outputs: shape[0], taps: shape[1], source: Int(pair[0]),
            phases: Int(pair[1]))
    }
}
