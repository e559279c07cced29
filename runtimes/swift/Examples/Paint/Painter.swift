// The model behind the view: a recorded image, a mask that grows under the pointer, and the picture.
import SIGEBundle
import SIGECore
import SIGEKit
import SwiftUI

/// Holds a session and what is shown. The painted pixels of the first spatial input take the colour of the brush.
@MainActor
final class Painter: ObservableObject {
    @Published private(set) var picture: CGImage?
    @Published private(set) var status = "opening"
    @Published private(set) var busy = true
    /// Value that painted pixels get in the channel that is chosen, and 0 in the others.
    @Published var channel = 0
    /// Radius of the brush, in pixels.
    @Published var radius = 6.0

    private var session: Session?
    private var inputs: Tensors = [:]
    private var mask: Mask?
    private var painted: [Float] = []

    /// Opens the package's bundle and records the image of its self-test.
    func open() async {
        do {
            let session = try await Session.open(SIGEBundle.url) { progress in
                Task { @MainActor in self.status = "\(progress.what) \(progress.done) of \(progress.total)" }
            }
            let golden = try Safetensors(at: SIGEBundle.golden.path)
            for spec in session.inputs { inputs[spec.name] = try golden.tensor("recorded.input.\(spec.name)") }
            self.session = session
            show(try await session.record(inputs), of: session)
            clear()
            status = "recorded"
        } catch {
            status = "\(error)"
        }
        busy = false
    }

    private var spatial: InputSpec? { session?.bundle.manifest.spatial.first }

    private func clear() {
        guard let spatial else { return }
        mask = Mask(height: spatial.size(.y), width: spatial.size(.x))
        painted = inputs[spatial.name]!.floats()
    }

    /// Paints around a point of the picture, given as shares of its height and width.
    func paint(atY y: Double, x: Double) {
        guard !busy, let spatial, var mask else { return }
        let offsets = Offsets(spatial)
        let (centre, reach) = ((y: y * Double(mask.height), x: x * Double(mask.width)), radius)
        for row in max(Int(centre.y - reach), 0)..<max(min(Int(centre.y + reach) + 1, mask.height), 0) {
            for column in max(Int(centre.x - reach), 0)..<max(min(Int(centre.x + reach) + 1, mask.width), 0) {
                let (dy, dx) = (Double(row) - centre.y, Double(column) - centre.x)
                if dy * dy + dx * dx > reach * reach { continue }
                mask[row, column] = true
                for (c, place) in offsets.c.enumerated() {
                    painted[offsets.n[0] + offsets.y[row] + offsets.x[column] + place] = c == channel ? 1 : 0
                }
            }
        }
        self.mask = mask
    }

    /// Repaints what was painted; `commit` keeps it.
    func apply() async {
        guard !busy, let session, let spatial, let mask, mask.count > 0 else { return }
        busy = true
        do {
            var edited = inputs
            edited[spatial.name] = try Tensor(spatial.dtype, shape: spatial.shape, floats: painted)
            show(try await session.edit(edited, mask: mask), of: session)
            try await session.commit()
            inputs = edited
            let report = try await session.report()
            let took = String(format: "%.1f ms, %.1f %% of the work", report.milliseconds, 100 * report.activeFraction)
            status = "\(report.path.rawValue): \(took)"
        } catch {
            status = "\(error)"
        }
        clear()
        busy = false
    }

    /// Number of channels of the spatial input.
    var channels: Int { spatial?.size(.channel) ?? 1 }

    /// Shows the first spatial output: its first three channels, or the first one as grey, from -1 to 1.
    private func show(_ outputs: Tensors, of session: Session) {
        guard let spec = session.outputs.first(where: { $0.level != nil }), let values = outputs[spec.name]?.floats()
        else { return }
        let offsets = Offsets(spec)
        var bytes: [UInt8] = []
        for y in offsets.y {
            for x in offsets.x {
                for c in 0..<3 {
                    let value = values[offsets.n[0] + y + x + offsets.c[offsets.c.count > 2 ? c : 0]]
                    bytes.append(UInt8(max(0, min(255, (value + 1) * 127.5))))
                }
                bytes.append(255)
            }
        }
        picture = image(bytes, width: offsets.x.count, height: offsets.y.count)
    }
}

/// An image of 4 bytes a pixel, the last of which is not used.
private func image(_ bytes: [UInt8], width: Int, height: Int) -> CGImage? {
    guard let provider = CGDataProvider(data: Data(bytes) as CFData) else { return nil }
    return CGImage(
        width: width, height: height, bitsPerComponent: 8, bitsPerPixel: 32, bytesPerRow: 4 * width,
        space: CGColorSpaceCreateDeviceRGB(), bitmapInfo: CGBitmapInfo(rawValue: CGImageAlphaInfo.noneSkipLast.rawValue),
        provider: provider, decode: nil, shouldInterpolate: false, intent: .defaultIntent)
}
