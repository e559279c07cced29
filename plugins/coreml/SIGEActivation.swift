// The activations of docs/ops.md, numbered as in plugins/kernels/metal/activation.h.
import Foundation

enum SIGEActivation: Int32 {
    case identity = 0, relu, leakyRelu, silu, gelu, geluTanh, sigmoid, tanh

    private static let names: [String: SIGEActivation] = [
        "identity": .identity, "relu": .relu, "leaky_relu": .leakyRelu, "silu": .silu, "gelu": .gelu,
        "gelu_tanh": .geluTanh, "sigmoid": .sigmoid, "tanh": .tanh,
    ]

    init(name: String) throws {
        guard let known = SIGEActivation.names[name] else {
            throw SIGELayerError("There is no activation '\(name)'; expected one of \(SIGEActivation.names.keys.sorted()).")
        }
        self = known
    }

    func apply(_ x: Float, alpha: Float) -> Float {
        switch self {
        case .identity: return x
        case .relu: return max(x, 0)
        case .leakyRelu: return x < 0 ? alpha * x : x
        case .silu: return x / (1 + exp(-x))
        case .gelu: return Float(0.5 * Double(x) * (1 + erf(Double(x) * 0.5.squareRoot())))
        case .geluTanh: return 0.5 * x * (1 + Foundation.tanh(0.79788456 * (x + 0.044715 * x * x * x)))
        case .sigmoid: return 1 / (1 + exp(-x))
        case .tanh: return Foundation.tanh(x)
        }
    }
}
