// swift-tools-version: 5.9
// The package that `sige-deploy package --target swift` writes. It adds what this folder lacks: Sources/SIGELayers and
// Sources/SIGEKit/metal out of plugins/, and the bundle with its self-test.
import PackageDescription

let package = Package(
    name: "SIGEKit",
    platforms: [.macOS(.v13), .iOS(.v16)],
    products: [
        .library(name: "SIGEKit", targets: ["SIGEKit", "SIGECore"]),
        .library(name: "SIGEBundle", targets: ["SIGEBundle"]),
    ],
    targets: [
        .target(name: "SIGECore"),
        .target(name: "SIGELayers"),
        .target(name: "SIGEKit", dependencies: ["SIGECore", "SIGELayers"], resources: [.copy("metal")]),
        .target(name: "SIGEBundle", resources: [.copy("bundle"), .copy("selftest.safetensors")]),
        .executableTarget(name: "SIGESelfTest", dependencies: ["SIGEKit", "SIGEBundle"]),
        .executableTarget(name: "Paint", dependencies: ["SIGEKit", "SIGEBundle"], path: "Examples/Paint"),
    ]
)
