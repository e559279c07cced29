// Runs the package's bundle on this device: `swift run -c release SIGESelfTest`, or the scheme of that name in Xcode.
import Foundation
import SIGEBundle
import SIGECore
import SIGEKit

do {
    let test = try SelfTest(bundle: SIGEBundle.url, golden: SIGEBundle.golden)
    let outcome = try await test.run { print($0) }
    exit(outcome.passed ? 0 : 1)
} catch let error as SigeError {
    print("\(error.kind.rawValue): \(error.sentence)")
    exit(1)
}
