/// An error that the package throws on purpose: one kind for each sort of mistake, one clear sentence.
///
/// Kinds and sentences are those of the Python package.
public struct SigeError: Error, Equatable, Sendable, CustomStringConvertible {
    /// What kind of mistake an error is about.
    public enum Kind: String, Sendable {
        /// A bundle is missing, truncated, altered, unsafe, or of a version that this release does not know.
        case bundle = "BundleError"
        /// An argument has the wrong name, shape, dtype or contents.
        case input = "InputError"
        /// A call came too early, e.g. an edit before a record.
        case state = "StateError"
        /// An engine is missing, cannot be made, or failed while running.
        case runtime = "RuntimeFailure"
    }

    /// The kind of mistake.
    public let kind: Kind
    /// What was wrong, what was expected, what to do.
    public let sentence: String

    /// An error of a kind that says `sentence`.
    public init(_ kind: Kind, _ sentence: String) {
        self.kind = kind
        self.sentence = sentence
    }

    /// The sentence.
    public var description: String { sentence }
}

/// A name as sentences have it: `'image'`.
func named(_ text: String) -> String { "'\(text)'" }

/// Names as sentences have them: `'image', 'gain'`.
func listed(_ names: [String]) -> String { names.map(named).joined(separator: ", ") }
