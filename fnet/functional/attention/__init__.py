"""Scaled dot-product attention: the public function, what may attend to what, and the forms that compute it."""

from fnet.functional.attention.dot_product import scaled_dot_product_attention

__all__ = ["scaled_dot_product_attention"]
