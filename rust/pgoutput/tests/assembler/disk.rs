//! Files in memory, of which the n-th use can fail.
use std::cell::Cell;
use std::rc::Rc;

use pgoutput::assembler::storage::{File, Storage};

/// Files in memory that can be told to fail at the n-th use of any of them.
#[derive(Clone, Default)]
pub struct Disk {
    pub uses: Rc<Cell<usize>>,
    pub fails_at: Option<usize>,
    pub written: Rc<Cell<u64>>,
    pub open: Rc<Cell<usize>>,
}

pub struct InMemory {
    disk: Disk,
    blocks: Vec<Vec<u8>>,
    at: usize,
}

impl Disk {
    fn used(&self) -> Result<(), &'static str> {
        self.uses.set(self.uses.get() + 1);
        if self.fails_at == Some(self.uses.get()) { Err("no space left on device") } else { Ok(()) }
    }
}

impl Storage for Disk {
    type File = InMemory;
    type Error = &'static str;

    fn create(&mut self) -> Result<InMemory, &'static str> {
        self.used()?;
        self.open.set(self.open.get() + 1);
        Ok(InMemory { disk: self.clone(), blocks: Vec::new(), at: 0 })
    }
}

impl File for InMemory {
    type Error = &'static str;

    fn append(&mut self, block: &[u8]) -> Result<(), &'static str> {
        self.disk.used()?;
        self.disk.written.set(self.disk.written.get() + block.len() as u64);
        self.blocks.push(block.to_vec());
        Ok(())
    }

    fn rewind(&mut self) -> Result<(), &'static str> {
        self.disk.used()?;
        self.at = 0;
        Ok(())
    }

    fn read(&mut self, block: &mut Vec<u8>) -> Result<bool, &'static str> {
        self.disk.used()?;
        let Some(next) = self.blocks.get(self.at) else { return Ok(false) };
        block.clone_from(next);
        self.at += 1;
        Ok(true)
    }

    fn stored_bytes(&self) -> u64 {
        self.blocks.iter().map(|block| block.len() as u64).sum()
    }
}

impl Drop for InMemory {
    fn drop(&mut self) {
        self.disk.open.set(self.disk.open.get() - 1);
    }
}
