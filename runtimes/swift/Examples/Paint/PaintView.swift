// Drag over the picture to paint; where the drag ends, the network repaints what changed.
import SwiftUI

struct PaintView: View {
    @StateObject private var painter = Painter()

    var body: some View {
        VStack {
            if let picture = painter.picture {
                canvas(picture)
            } else {
                ProgressView()
            }
            HStack {
                Stepper("Channel \(painter.channel)", value: $painter.channel, in: 0...max(painter.channels - 1, 0))
                Slider(value: $painter.radius, in: 1...64)
            }
            Text(painter.status)
        }
        .padding()
        .task { await painter.open() }
    }

    private func canvas(_ picture: CGImage) -> some View {
        GeometryReader { place in
            Image(decorative: picture, scale: 1)
                .resizable()
                .gesture(
                    DragGesture(minimumDistance: 0)
                        .onChanged { drag in
                            painter.paint(
                                atY: drag.location.y / place.size.height, x: drag.location.x / place.size.width)
                        }
                        .onEnded { _ in Task { await painter.apply() } }
                )
        }
        .aspectRatio(Double(picture.width) / Double(picture.height), contentMode: .fit)
    }
}

@main
struct PaintApp: App {
    var body: some Scene { WindowGroup { PaintView() } }
}
