fn main() {
    // A new migration is a new file: no source changes that would tell cargo to embed it.
    println!("cargo:rerun-if-changed=migrations");
}
