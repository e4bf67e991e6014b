#![no_main]
#[global_allocator]
static ALLOCATOR: pgoutput_fuzz::Allocator = pgoutput_fuzz::allocator();

libfuzzer_sys::fuzz_target!(|input: &[u8]| pgoutput_fuzz::bounded(&ALLOCATOR, pgoutput_fuzz::exercise::assembler, input));
