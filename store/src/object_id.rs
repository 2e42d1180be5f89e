//! An object's name: the BLAKE3 hash of its bytes.
/// BLAKE3 hash of an object's bytes; shown as 64 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct ObjectId([u8; 32]);
/// Computes an [`ObjectId`] from bytes that stream past.
#[derive(Default)]
pub struct Hasher(blake3::Hasher);
impl Hasher {
    /// Starts.
    pub fn new() -> Self {
        Self::default()
    }
    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }
    /// The id of all bytes so far.
    pub fn finish(&self) -> ObjectId {
        ObjectId(*self.0.finalize().as_bytes())
    }
}
impl std::fmt::Display for ObjectId {
    fn fmt(&self, _f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        todo!()
    }
}
impl std::fmt::Debug for ObjectId {
    fn fmt(&self, _f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        todo!()
    }
}
impl std::str::FromStr for ObjectId {
    type Err = &'static str;
    fn from_str(_s: &str) -> Result<Self, Self::Err> {
        todo!()
    }
}
