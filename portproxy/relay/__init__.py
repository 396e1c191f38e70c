"""Running rules: a socket is accepted, admitted, dialled for, relayed, accounted for."""
