import Foundation

/// Where the package's bundle is on this device.
public enum SIGEBundle {
    /// The folder that `Session.open` takes.
    public static var url: URL { place("bundle", nil) }

    /// Inputs and results of Python, for `SelfTest`.
    public static var golden: URL { place("selftest", "safetensors") }

    private static func place(_ name: String, _ suffix: String?) -> URL {
        guard let found = Foundation.Bundle.module.url(forResource: name, withExtension: suffix) else {
            fatalError("the package lacks '\(name)'; package the bundle anew")
        }
        return found
    }
}
