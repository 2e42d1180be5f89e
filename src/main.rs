//! The cvdmirror binary: everything is in the library.
fn main() -> std::process::ExitCode {
    cvdmirror::cli::run()
}
