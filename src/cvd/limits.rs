//! The limits that every reader of this module keeps, in one place.

/// What a file may cost before it is refused. All sizes in bytes.
///
/// The defaults hold today's largest databases (a 163 MB `main.cvd`, tars of some 400 MB) several times over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// A whole CVD or CLD as it is stored.
    pub max_cvd_bytes: u64,
    /// A CVD's body, inflated.
    pub max_inflated_bytes: u64,
    /// One member of a CVD.
    pub max_member_bytes: u64,
    /// How many members a CVD may have.
    pub max_members: usize,
    /// A `.info` member, which is held in memory.
    pub max_info_bytes: u64,
    /// A whole CDIFF as it is stored; it is held in memory.
    pub max_cdiff_bytes: u64,
    /// A CDIFF's script, inflated; it is held in memory.
    pub max_script_bytes: u64,
    /// How many lines a CDIFF's script may have.
    pub max_script_lines: u64,
    /// One line of a member that a CDIFF edits.
    pub max_line_bytes: u64,
    /// A sign file; it is held in memory.
    pub max_sign_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_cvd_bytes: 1 << 30,
            max_inflated_bytes: 2 << 30,
            max_member_bytes: 1 << 30,
            max_members: 10_000,
            max_info_bytes: 4 << 20,
            max_cdiff_bytes: 64 << 20,
            max_script_bytes: 256 << 20,
            max_script_lines: 8_000_000,
            max_line_bytes: 16 << 20,
            max_sign_bytes: 256 << 10,
        }
    }
}
