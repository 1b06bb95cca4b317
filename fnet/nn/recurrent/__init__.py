"""Recurrent layers: cells, `RNN` over any cell, and PyTorch's LSTM, GRU and Elman RNN."""

from fnet.nn.recurrent.cells import GRUCell, LSTMCell, RNNCell
from fnet.nn.recurrent.layers import GRU, LSTM, ElmanRNN
from fnet.nn.recurrent.rnn import RNN

__all__ = ["GRU", "LSTM", "RNN", "ElmanRNN", "GRUCell", "LSTMCell", "RNNCell"]
