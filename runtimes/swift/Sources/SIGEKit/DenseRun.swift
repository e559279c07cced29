import CoreML
import SIGECore

/// A run of the whole network by the record model.
struct DenseRun: Sendable {
    /// What it gave: the outputs; with `keeping`, the arrays that layers read, as halves, and those that edit models take.
    struct Made: Sendable {
        var outputs: Tensors = [:]
        var arrays: [String: [UInt16]] = [:]
        var taken: Tensors = [:]
    }

    private let manifest: Manifest
    private let models: CoreMLFolder

    init(_ manifest: Manifest, _ models: CoreMLFolder) {
        self.manifest = manifest
        self.models = models
    }

    func run(_ model: Model, _ inputs: Tensors, keeping: Bool) async throws -> Made {
        try await model.run("the dense pass") {
            try models.recordInputs.mapValues { try MLMultiArray.made(inputs[$0]!) }
        } _: { prediction in
            let names = Dictionary(uniqueKeysWithValues: models.recordOutputs.map { ($0.value, $0.key) })
            var made = Made()
            for spec in manifest.outputs {
                let floats = try prediction.array(names[spec.name]!).floats()
                made.outputs[spec.name] = try shaped(spec.name, spec.dtype, spec.shape, floats)
            }
            if !keeping { return made }
            for cache in manifest.caches {
                guard let name = names[cache.name] else { continue }
                if models.arrays.contains(cache.name) {
                    let halves = try prediction.array(name).halves()
                    try check(cache.name, halves.count, cache.shape)
                    made.arrays[cache.name] = halves
                } else if models.inputs.contains(where: { $0.name == cache.name }) {
                    let floats = try prediction.array(name).floats()
                    made.taken[cache.name] = try shaped(cache.name, .float32, cache.shape, floats)
                }
            }
            return made
        }
    }
}

/// An array of these values; throws kind `runtime` where they are too many or too few.
func shaped(_ name: String, _ dtype: DType, _ shape: [Int], _ floats: [Float]) throws -> Tensor {
    try check(name, floats.count, shape)
    return try Tensor(dtype, shape: shape, floats: floats)
}

private func check(_ name: String, _ count: Int, _ shape: [Int]) throws {
    if count != shape.reduce(1, *) {
        throw SigeError(
            .runtime, "the model gave \(count) values of '\(name)', expected shape \(shape); build the Core ML models anew.")
    }
}
