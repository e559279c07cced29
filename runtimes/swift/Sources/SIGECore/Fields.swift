/// What is wrong with a manifest, and where in it: `inputs.0.shape`; empty for the whole.
struct Invalid: Error {
    let place: String
    let what: String
}

/// A value of a manifest and where it is, read as the classes of `sige_deploy/manifest.py` read it, with the same
/// words. Methods throw `Invalid`.
struct Value {
    let json: JSON
    let place: String

    func invalid(_ what: String) -> Invalid { Invalid(place: place, what: what) }

    func at(_ key: String, _ json: JSON) -> Value {
        Value(json: json, place: place.isEmpty ? key : "\(place).\(key)")
    }

    func text() throws -> String {
        guard case .text(let text) = json else { throw invalid("Input should be a valid string") }
        return text
    }

    func one(of known: [String]) throws -> String {
        if case .text(let text) = json, known.contains(text) { return text }
        let wanted = known.dropLast().map(named).joined(separator: ", ")
        throw invalid("Input should be \(wanted.isEmpty ? "" : wanted + " or ")\(named(known.last ?? ""))")
    }

    func integer(atLeast least: Int64) throws -> Int {
        let value: Int64
        switch json {
        case .bool(let truth): value = truth ? 1 : 0  // as Python has it
        case .integer(let whole): value = whole
        case .number(let number):
            guard let whole = Int64(exactly: number) else {
                throw invalid("Input should be a valid integer, got a number with a fractional part")
            }
            value = whole
        case .text: throw invalid("Input should be a valid integer, unable to parse string as an integer")
        default: throw invalid("Input should be a valid integer")
        }
        if value < least { throw invalid("Input should be greater than or equal to \(least)") }
        return Int(value)
    }

    /// A finite number of 0 or more; `most`: the largest that is allowed.
    func number(atMost most: Double = .infinity) throws -> Double {
        let value: Double
        switch json {
        case .bool(let truth): value = truth ? 1 : 0
        case .integer(let whole): value = Double(whole)
        case .number(let number): value = number
        case .text: throw invalid("Input should be a valid number, unable to parse string as a number")
        default: throw invalid("Input should be a valid number")
        }
        if value < 0 { throw invalid("Input should be greater than or equal to 0") }
        if value > most { throw invalid("Input should be less than or equal to 1") }
        return value
    }

    func boolean() throws {
        switch json {
        case .bool: return
        case .text, .integer: throw invalid("Input should be a valid boolean, unable to interpret input")
        default: throw invalid("Input should be a valid boolean")
        }
    }

    func dtype() throws -> DType {
        let name = try one(of: DType.allCases.map(\.rawValue))
        return DType(rawValue: name)!
    }

    func list<T>(_ read: (Value) throws -> T) throws -> [T] {
        guard case .list(let entries) = json else { throw invalid("Input should be a valid list") }
        return try entries.enumerated().map { try read(at("\($0.offset)", $0.element)) }
    }

    func integers(atLeast least: Int64) throws -> [Int] { try list { try $0.integer(atLeast: least) } }

    /// The entries of an object, by name.
    func entries() throws -> [String: Value] {
        guard case .object(let entries) = json else { throw invalid("Input should be a valid dictionary") }
        return Dictionary(uniqueKeysWithValues: entries.map { ($0.key, at($0.key, $0.value)) })
    }

    /// Reads an object of a class of `sige_deploy/manifest.py`, and refuses fields that `read` does not ask for.
    func object<T>(_ name: String, _ read: (Fields) throws -> T) throws -> T {
        guard case .object(let entries) = json else {
            throw invalid("Input should be a valid dictionary or instance of \(name)")
        }
        let fields = Fields(value: self, entries: entries)
        let result = try read(fields)
        for key in entries.keys.sorted(by: precedes) where !fields.known.contains(key) {
            throw at(key, json).invalid("Extra inputs are not permitted")
        }
        return result
    }
}

/// The fields of an object.
final class Fields {
    let value: Value
    let entries: [String: JSON]
    fileprivate(set) var known: Set<String> = []

    fileprivate init(value: Value, entries: [String: JSON]) {
        self.value = value
        self.entries = entries
    }

    func find(_ key: String) -> Value? {
        known.insert(key)
        return entries[key].map { value.at(key, $0) }
    }

    func required(_ key: String) throws -> Value {
        guard let found = find(key) else { throw value.at(key, .null).invalid("Field required") }
        return found
    }

    /// A field that may be null.
    func optional(_ key: String) -> Value? {
        let found = find(key)
        return found?.json == .null ? nil : found
    }
}

/// The order of code points, in which Python sorts.
func precedes(_ a: String, _ b: String) -> Bool { a.utf8.lexicographicallyPrecedes(b.utf8) }
