import Foundation

/// What the system says of a file.
struct FileStatus {
    let regular: Bool
    let folder: Bool
    let bytes: Int

    /// Throws `SystemError`. following: whether of what a link leads to.
    init(_ path: String, following: Bool = true) throws {
        var status = stat()
        guard (following ? stat(path, &status) : lstat(path, &status)) == 0 else { throw SystemError() }
        regular = status.st_mode & S_IFMT == S_IFREG
        folder = status.st_mode & S_IFMT == S_IFDIR
        bytes = Int(status.st_size)
    }
}

/// Why a call of the system failed.
struct SystemError: Error {
    let what = String(cString: strerror(errno))
}

/// The absolute path of a file or folder, without `.`, `..` and doubled slashes; links stay.
func absolute(_ path: String) -> String {
    let whole = path.hasPrefix("/") ? path : FileManager.default.currentDirectoryPath + "/" + path
    var parts: [Substring] = []
    for part in whole.split(separator: "/") where part != "." {
        if part == ".." { _ = parts.popLast() } else { parts.append(part) }
    }
    return "/" + parts.joined(separator: "/")
}

/// The path behind all links, as far as there are files.
func resolved(_ path: String) -> String {
    guard let real = realpath(path, nil) else { return path }
    defer { free(real) }
    return String(cString: real)
}

/// Reads a file in pieces; throws `SystemError`.
func read(_ path: String, pieces: Int = 4 << 20, each: ([UInt8]) -> Void) throws {
    let descriptor = open(path, O_RDONLY | O_CLOEXEC)
    guard descriptor >= 0 else { throw SystemError() }
    defer { close(descriptor) }
    var buffer = [UInt8](repeating: 0, count: pieces)
    while true {
        let count = read(descriptor, &buffer, pieces)
        if count < 0 {
            if errno == EINTR { continue }
            throw SystemError()
        }
        if count == 0 { return }
        each(count == pieces ? buffer : Array(buffer[..<count]))
    }
}

/// All of a file; throws `SystemError`.
func contents(_ path: String) throws -> [UInt8] {
    var bytes: [UInt8] = []
    try read(path) { bytes += $0 }
    return bytes
}

/// SHA-256 of a file, hexadecimal; throws `SystemError`.
func sha256(_ path: String) throws -> String {
    var sum = SHA256Sum()
    try read(path) { sum.add($0) }
    return sum.hex()
}

/// Checks a file of a bundle: that it lies in the folder `root`, that size and SHA-256 are those listed. Throws kind
/// `bundle`. name: relative to `root`.
public func checkFile(_ name: String, in root: String, _ spec: FileSpec) throws {
    let path = root + "/" + name
    let anew = "copy or export the bundle anew."
    if !(resolved(path) + "/").hasPrefix(resolved(root) + "/") {
        throw SigeError(
            .bundle,
            "\(named(name)) of bundle \(named(root)) is a link that leaves the bundle; "
                + "copy the file itself into the bundle.")
    }
    do {
        let status = try FileStatus(path)
        if !status.regular { throw SigeError(.bundle, "\(named(path)) is not a regular file; \(anew)") }
        if status.bytes != spec.bytes {
            throw SigeError(
                .bundle,
                "\(named(path)) has \(status.bytes) bytes, the manifest says \(spec.bytes): it is truncated or of "
                    + "another bundle; \(anew)")
        }
        if try sha256(path) != spec.sha256 {
            throw SigeError(.bundle, "\(named(path)) was altered: its SHA-256 is not the manifest's; \(anew)")
        }
    } catch let error as SystemError {
        throw SigeError(.bundle, "cannot read \(named(path)) (\(error.what)); \(anew)")
    }
}
