//! The cvdmirror binary.
fn main() {}
