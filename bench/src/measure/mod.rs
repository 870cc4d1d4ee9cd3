//! The measurements, one file each: which samples are taken, in which order, and what becomes a figure.

pub mod eight;
pub mod memory;
pub mod moved;
pub mod single;
