import CoreML
import SIGECore

/// What a sparse edit made, and what a commit writes.
struct SparseEdit: Sendable {
    let outputs: Tensors
    /// Fresh rows of the caches, halves [P, C] of the active pixels, by the model's names.
    let rows: [String: [UInt16]]
    /// Rows of the spatial inputs, and the free inputs whole.
    let inputs: Tensors
    /// Active pixels by level, without padding.
    let active: [String: [Int32]]

    /// Writes the edited inputs into recorded ones.
    func write(to recorded: inout Tensors, _ manifest: Manifest) throws {
        for spec in manifest.inputs {
            guard let edited = inputs[spec.name] else { continue }
            if spec.role == .spatial {
                try recorded[spec.name]!.put(edited, Offsets(spec), at: active[spec.level!]!)
            } else {
                recorded[spec.name] = edited
            }
        }
    }
}

/// An edit of active rows only, by the edit model of its bucket. Tables and bases must be in force.
struct SparseRun: Sendable {
    private let manifest: Manifest
    private let models: CoreMLFolder
    private let indices: EditIndices

    init(_ manifest: Manifest, _ models: CoreMLFolder, _ indices: EditIndices) {
        self.manifest = manifest
        self.models = models
        self.indices = indices
    }

    func run(_ model: Model, _ given: Tensors, _ recorded: Session.Recorded) async throws -> SparseEdit {
        let active = Dictionary(
            uniqueKeysWithValues: indices.active.map { ($0.key, Array($0.value.prefix(indices.counts[$0.key]!))) })
        return try await model.run("the edit") {
            try features(given, recorded)
        } _: { prediction in
            var outputs = recorded.outputs
            var rows: [String: [UInt16]] = [:]
            for spec in models.outputs {
                let floats = try prediction.array(spec.name).floats()
                let live = spec.level.map { active[$0]! }
                let values = live == nil ? floats : lastChannels(floats, spec.channels, live!.count)
                for output in manifest.outputs where output.rows == spec.name {
                    guard let live else {
                        outputs[output.name] = try shaped(output.name, output.dtype, output.shape, values)
                        continue
                    }
                    let fresh = try Tensor(output.dtype, shape: [1, live.count, spec.channels], floats: values)
                    try outputs[output.name]!.put(fresh, Offsets(output), at: live)
                }
                if manifest.caches.contains(where: { $0.rows == spec.name }) { rows[spec.name] = values.map(half(of:)) }
            }
            return SparseEdit(outputs: outputs, rows: rows, inputs: kept(given, active), active: active)
        }
    }

    /// The model's inputs: rows [1, C, 1, P] of the spatial ones, [1, C, 1, 1] of the others.
    private func features(_ given: Tensors, _ recorded: Session.Recorded) throws -> [String: MLMultiArray] {
        var features: [String: MLMultiArray] = [:]
        for input in models.inputs {
            if let level = input.level, let spec = manifest.spatial.first(where: { "rows.\($0.name)" == input.name }) {
                let pixels = indices.active[level]!
                let rows = given[spec.name]!.rows(Offsets(spec), at: pixels).floats()
                features[input.name] = try MLMultiArray.made(
                    [1, input.channels, 1, pixels.count], floats: firstChannels(rows, input.channels, pixels.count))
            } else if let tensor = given[input.name] ?? recorded.taken[input.name], tensor.count == input.channels {
                features[input.name] = try MLMultiArray.made([1, input.channels, 1, 1], floats: tensor.floats())
            } else {
                throw SigeError(
                    .bundle,
                    "the edit graph reads '\(input.name)', which the manifest does not list; export the bundle anew.")
            }
        }
        return features
    }

    private func kept(_ given: Tensors, _ active: [String: [Int32]]) -> Tensors {
        var inputs: Tensors = [:]
        for spec in manifest.inputs where spec.role != .pinned {
            let tensor = given[spec.name]!
            inputs[spec.name] = spec.role == .free ? tensor : tensor.rows(Offsets(spec), at: active[spec.level!]!)
        }
        return inputs
    }
}

/// [P, C] as [C, P].
private func firstChannels(_ rows: [Float], _ channels: Int, _ count: Int) -> [Float] {
    var result = rows
    for row in 0..<count { for c in 0..<channels { result[c * count + row] = rows[row * channels + c] } }
    return result
}

/// The first `count` pixels of [C, P] as [count, C].
private func lastChannels(_ values: [Float], _ channels: Int, _ count: Int) -> [Float] {
    let width = values.count / channels
    var result = [Float](repeating: 0, count: channels * count)
    for c in 0..<channels { for row in 0..<count { result[row * channels + c] = values[c * width + row] } }
    return result
}
