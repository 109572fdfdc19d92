// SPDX-License-Identifier: MIT

//! The header is what cbindgen makes of src/c.rs. `UPDATE=1 cargo test -p libvremote --test header` writes it.

use std::{fs, path::Path};

#[test]
fn the_header_is_up_to_date() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let config = cbindgen::Config::from_file(here.join("cbindgen.toml")).unwrap();
    let made = cbindgen::Builder::new()
        .with_config(config)
        .with_src(here.join("src/c.rs"))
        .generate()
        .unwrap();
    let mut text = Vec::new();
    made.write(&mut text);
    let text = String::from_utf8(text).unwrap();
    let path = here.join("include/vremote.h");
    if std::env::var_os("UPDATE").is_some() {
        fs::write(&path, &text).unwrap();
    }
    assert_eq!(
        fs::read_to_string(&path).unwrap_or_default(),
        text,
        "UPDATE=1 cargo test -p libvremote --test header"
    );
}
