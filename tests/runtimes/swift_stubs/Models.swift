// As much of Core ML's models as SIGEKit uses, beside the arrays of tests/plugins/metal/stubs. `predict` takes their place.
import Foundation

public enum MLComputeUnits: Int, Sendable { case cpuOnly = 0, cpuAndGPU = 1, all = 2, cpuAndNeuralEngine = 3 }

public class MLModelConfiguration {
    public var computeUnits: MLComputeUnits = .all
    public init() {}
}

public final class MLFeatureValue {
    public let multiArrayValue: MLMultiArray?
    public init(multiArray: MLMultiArray) { multiArrayValue = multiArray }
}

public protocol MLFeatureProvider {
    var featureNames: Set<String> { get }
    func featureValue(for featureName: String) -> MLFeatureValue?
}

public final class MLDictionaryFeatureProvider: MLFeatureProvider {
    private let arrays: [String: MLMultiArray]
    public init(dictionary: [String: Any]) throws { arrays = dictionary.compactMapValues { $0 as? MLMultiArray } }
    public var featureNames: Set<String> { Set(arrays.keys) }
    public func featureValue(for featureName: String) -> MLFeatureValue? {
        arrays[featureName].map { MLFeatureValue(multiArray: $0) }
    }
}

open class MLModel {
    /// What a prediction gives, for the file that the model was compiled from.
    nonisolated(unsafe) public static var predict: (URL, any MLFeatureProvider) throws -> [String: MLMultiArray] = { _, _ in
        [:]
    }

    private let source: URL
    private init(source: URL) { self.source = source }

    /// A compiled model of this stub is a file that names its source.
    public static func compileModel(at modelURL: URL) async throws -> URL {
        let place = FileManager.default.temporaryDirectory.appendingPathComponent(UUID().uuidString)
        try modelURL.path.write(to: place, atomically: true, encoding: .utf8)
        return place
    }

    public static func load(
        contentsOf url: URL, configuration: MLModelConfiguration = MLModelConfiguration()
    ) async throws -> MLModel {
        MLModel(source: URL(fileURLWithPath: try String(contentsOf: url, encoding: .utf8)))
    }

    public func prediction(from input: any MLFeatureProvider) throws -> any MLFeatureProvider {
        try MLDictionaryFeatureProvider(dictionary: try MLModel.predict(source, input))
    }
}
