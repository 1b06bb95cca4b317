"""Recurrent layers: cells, `RNN` over any cell, and PyTorch's LSTM, GRU and Elman RNN."""

from fnet.nn.recurrent.cells import GRUCell, LSTMCell, RNNCell
from fnet.nn.recurrent.conv import ConvLSTMCell
from fnet.nn.recurrent.layers import GRU, LSTM, ElmanRNN
from fnet.nn.recurrent.rnn import RNN

__all__ = ["GRU", "LSTM", "RNN", "ConvLSTMCell", "ElmanRNN", "GRUCell", "LSTMCell", "RNNCell"]
