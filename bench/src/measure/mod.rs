//! The measurements, one file each: which samples are taken, in which order, and what becomes a figure.

pub mod claims;
pub mod clients;
pub mod containers;
pub mod eight;
pub mod fleet;
pub mod followed;
pub mod logs;
pub mod memory;
pub mod moved;
pub mod pages;
pub mod single;
