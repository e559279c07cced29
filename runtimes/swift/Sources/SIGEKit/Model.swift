import CoreML
import Foundation
import SIGECore

/// What a model gave.
struct Prediction {
    fileprivate let features: any MLFeatureProvider

    /// An output by name; throws kind `runtime` where there is none.
    func array(_ name: String) throws -> MLMultiArray {
        guard let array = features.featureValue(for: name)?.multiArrayValue else {
            throw SigeError(.runtime, "the model gave no '\(name)'; build the Core ML models anew.")
        }
        return array
    }
}

/// A model of a bundle, compiled for this device and loaded. Predictions take turns on a queue of their own, so that they
/// hold up no task.
final class Model: @unchecked Sendable {
    private let model: MLModel
    private let queue = DispatchQueue(label: "sige.model")

    /// Compiles the model of a file, unless that was done before, and loads it. key: folder name of the compiled models of
    /// this folder. Throws kind `runtime`.
    init(_ path: String, key: String, units: MLComputeUnits) async throws {
        let configuration = MLModelConfiguration()
        configuration.computeUnits = units
        do {
            let compiled = try await Model.compile(path, key: key)
            model = try await MLModel.load(contentsOf: compiled, configuration: configuration)
        } catch {
            throw failure("Core ML cannot load '\(path)'", error)
        }
    }

    /// The compiled model of a file, in the user's caches.
    static func compile(_ path: String, key: String) async throws -> URL {
        let source = URL(fileURLWithPath: path)
        let caches = try FileManager.default.url(
            for: .cachesDirectory, in: .userDomainMask, appropriateFor: nil, create: true)
        let folder = caches.appendingPathComponent("SIGEKit").appendingPathComponent(key)
        let name = source.deletingPathExtension().lastPathComponent
        let place = folder.appendingPathComponent(name + ".mlmodelc")
        if FileManager.default.fileExists(atPath: place.path) { return place }
        try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
        let compiled = try await MLModel.compileModel(at: source)
        do {
            try FileManager.default.moveItem(at: compiled, to: place)
        } catch {
            // Another session of this app may have been faster.
            if !FileManager.default.fileExists(atPath: place.path) { throw error }
        }
        return place
    }

    /// Runs the model on the arrays that `make` makes and returns what `read` makes of the results. Throws kind `runtime`
    /// where Core ML fails. doing: "the edit", for the sentence.
    func run<T: Sendable>(
        _ doing: String, _ make: @escaping @Sendable () throws -> [String: MLMultiArray],
        _ read: @escaping @Sendable (Prediction) throws -> T
    ) async throws -> T {
        try await withCheckedThrowingContinuation { continuation in
            queue.async {
                continuation.resume(
                    with: Result {
                        do {
                            let given = try MLDictionaryFeatureProvider(dictionary: try make())
                            return try read(Prediction(features: try self.model.prediction(from: given)))
                        } catch let error as SigeError {
                            throw error
                        } catch {
                            throw failure("Core ML failed in \(doing)", error)
                        }
                    })
            }
        }
    }
}

private func failure(_ what: String, _ error: any Error) -> SigeError {
    if let known = error as? SigeError { return known }
    return SigeError(.runtime, "\(what) (\(error.localizedDescription)); build the Core ML models anew.")
}
