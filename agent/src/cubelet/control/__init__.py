"""Brings the node to what the state demands: reconciling, planning, composing, switching over."""
