//! Boots virtual machines and watches their consoles.
