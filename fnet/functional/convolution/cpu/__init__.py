"""Forms of the convolution that XLA's CPU backend runs faster than its own, chosen by the shapes at trace time.

benchmarks/layers.py measures them; docs/performance.md holds the numbers, and what was tried and did not win. All
take (batch, *spatial, in) and (*kernel, in / groups, out), work for any stride, padding (negative too) and dilation
that `choice` gives them, and are sums of the same products in another order.

    choice      which form for which shapes
    bilinear    how a form gets gradients in another form than its transpose
    crossed     the weight gradient as one matmul of shifted inputs and shifted output gradients
    blocks      sums over the batch, a block at a time
    depthwise   shift, multiply, add
    grouped     groups of few channels: depthwise sums
    winograd    3x3 with 4 products for 9, as 16 matmuls
    widened     few channels: neighbouring outputs as channels
    folded      strides of one axis as channels
    planes      three axes
    phases      strides, of convolutions and transposed ones, without zeros between
"""
