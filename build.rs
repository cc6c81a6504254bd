//! Asks the linker for packed relative relocations (DT_RELR) where this system has them: over a megabyte less to read at the start
//! of every process, and to keep in memory. Needs glibc 2.36 and a linker of 2022; elsewhere the binary is as it was.

use std::{env, error::Error, fs, path::Path, process::Command};

const PACKED: &str = "-Wl,-z,pack-relative-relocs";

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let same = env::var_os("HOST").is_some_and(|host| Some(host) == env::var_os("TARGET"));
    let gnu = env::var("CARGO_CFG_TARGET_ENV").is_ok_and(|name| name == "gnu");
    if same && gnu && runs_packed().unwrap_or(false) {
        println!("cargo::rustc-link-arg-bins={PACKED}");
    }
}

/// Whether a program that is linked so can be made, and started.
fn runs_packed() -> Result<bool, Box<dyn Error>> {
    let folder = env::var("OUT_DIR")?;
    let (source, program) = (Path::new(&folder).join("packed.c"), Path::new(&folder).join("packed"));
    fs::write(&source, "static int number; int *place = &number; int main(void) { return *place; }\n")?;
    let compiler = env::var_os("CC").unwrap_or_else(|| "cc".into());
    let made = Command::new(compiler)
        .args([PACKED, "-Wl,--fatal-warnings", "-pie", "-fPIE", "-o"])
        .arg(&program)
        .arg(&source)
        .output()?;
    Ok(made.status.success() && Command::new(&program).status()?.success())
}
