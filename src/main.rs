//! Hands over to the command line.

fn main() -> std::process::ExitCode {
    spot::cli::main()
}
