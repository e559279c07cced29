// swift-tools-version: 5.9
import PackageDescription

let package = Package(
    name: "SIGEKit",
    platforms: [.macOS(.v13), .iOS(.v16)],
    products: [.library(name: "SIGEKit", targets: ["SIGEKit"])],
    targets: [.target(name: "SIGECore"), .target(name: "SIGEKit", dependencies: ["SIGECore"])]
)
