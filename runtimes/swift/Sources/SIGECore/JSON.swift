/// A JSON value that keeps whole numbers, fractions and truth values apart, as manifests need it.
public indirect enum JSON: Equatable, Sendable {
    case null
    case bool(Bool)
    case integer(Int64)
    case number(Double)
    case text(String)
    case list([JSON])
    case object([String: JSON])

    /// Why a text is no JSON.
    public struct Mistake: Error {
        let what: String
    }

    /// The value of a text in UTF-8; throws `Mistake`.
    public init(parsing text: [UInt8]) throws {
        var reader = Reader(text: text)
        self = try reader.value(depth: 0)
        reader.skip()
        if reader.at < text.count { throw reader.mistake("a value is followed by more") }
    }

    private struct Reader {
        let text: [UInt8]
        var at = 0

        static let deepest = 512

        func mistake(_ what: String) -> Mistake { Mistake(what: "\(what) at byte \(at)") }

        mutating func skip() {
            while at < text.count, [0x20, 0x0A, 0x0D, 0x09].contains(text[at]) { at += 1 }
        }

        mutating func take(_ byte: Character) -> Bool {
            skip()
            guard at < text.count, text[at] == byte.asciiValue else { return false }
            at += 1
            return true
        }

        mutating func expect(_ byte: Character) throws {
            if !take(byte) { throw mistake("'\(byte)' is missing") }
        }

        mutating func value(depth: Int) throws -> JSON {
            if depth > Reader.deepest { throw mistake("values are nested too deep") }
            skip()
            guard at < text.count else { throw mistake("the text ends") }
            switch text[at] {
            case UInt8(ascii: "{"): return try object(depth: depth)
            case UInt8(ascii: "["): return try list(depth: depth)
            case UInt8(ascii: "\""): return .text(try string())
            case UInt8(ascii: "t"): return try word("true", .bool(true))
            case UInt8(ascii: "f"): return try word("false", .bool(false))
            case UInt8(ascii: "n"): return try word("null", .null)
            default: return try number()
            }
        }

        mutating func word(_ word: String, _ value: JSON) throws -> JSON {
            guard text[at...].starts(with: word.utf8) else { throw mistake("there is no value") }
            at += word.utf8.count
            return value
        }

        mutating func object(depth: Int) throws -> JSON {
            var entries: [String: JSON] = [:]
            try expect("{")
            if take("}") { return .object(entries) }
            repeat {
                skip()
                guard at < text.count, text[at] == UInt8(ascii: "\"") else { throw mistake("a name is missing") }
                let name = try string()
                try expect(":")
                entries[name] = try value(depth: depth + 1)
            } while take(",")
            try expect("}")
            return .object(entries)
        }

        mutating func list(depth: Int) throws -> JSON {
            var entries: [JSON] = []
            try expect("[")
            if take("]") { return .list(entries) }
            repeat { entries.append(try value(depth: depth + 1)) } while take(",")
            try expect("]")
            return .list(entries)
        }

        mutating func number() throws -> JSON {
            let start = at
            var whole = true
            while at < text.count, let sign = Optional(text[at]) {
                let digit = sign >= UInt8(ascii: "0") && sign <= UInt8(ascii: "9")
                guard digit || "+-.eE".utf8.contains(sign) else { break }
                whole = whole && (digit || sign == UInt8(ascii: "-"))
                at += 1
            }
            let digits = String(decoding: text[start..<at], as: UTF8.self)
            if whole, let value = Int64(digits) { return .integer(value) }
            guard let value = Double(digits) else { throw mistake("there is no value") }
            return .number(value)
        }

        mutating func string() throws -> String {
            at += 1
            var bytes: [UInt8] = []
            while at < text.count {
                let byte = text[at]
                at += 1
                switch byte {
                case UInt8(ascii: "\""): return String(decoding: bytes, as: UTF8.self)
                case UInt8(ascii: "\\"): bytes += try escaped()
                case 0..<0x20: throw mistake("a text holds a control character")
                default: bytes.append(byte)
                }
            }
            throw mistake("a text has no end")
        }

        mutating func escaped() throws -> [UInt8] {
            guard at < text.count else { throw mistake("a text has no end") }
            let byte = text[at]
            at += 1
            if byte == UInt8(ascii: "u") { return Array(String(try scalar()).utf8) }
            let known: [Character: UInt8] = [
                "\"": 0x22, "\\": 0x5C, "/": 0x2F, "b": 0x08, "f": 0x0C, "n": 0x0A, "r": 0x0D, "t": 0x09,
            ]
            guard let value = known[Character(UnicodeScalar(byte))] else { throw mistake("an escape is unknown") }
            return [value]
        }

        mutating func scalar() throws -> Character {
            var code = try hex()
            if 0xD800..<0xDC00 ~= code, text[at...].starts(with: "\\u".utf8) {
                at += 2
                code = 0x10000 + (code - 0xD800) << 10 + (try hex()) - 0xDC00
            }
            guard let found = UnicodeScalar(code) else { throw mistake("an escape is no character") }
            return Character(found)
        }

        mutating func hex() throws -> UInt32 {
            guard at + 4 <= text.count,
                let code = UInt32(String(decoding: text[at..<at + 4], as: UTF8.self), radix: 16)
            else { throw mistake("an escape is cut off") }
            at += 4
            return code
        }
    }
}
