// The client of Node: pg-logical-replication with its pgoutput plugin, which knows the text form only.
// node stream_node.cjs TASK, as benches/stream_clients.py; says the same on stdout.
"use strict";
const { LogicalReplicationService, PgoutputPlugin } = require("pg-logical-replication");
const { readFileSync } = require("node:fs");

const task = JSON.parse(process.argv[2]);
const { slot, publication, rows: wanted, url } = task;
const service = new LogicalReplicationService({ connectionString: url });
const plugin = new PgoutputPlugin({ protoVersion: 1, publicationNames: [publication] });

const memory = (name) => Number(readFileSync("/proc/self/status", "utf8").match(`${name}:\\s+(\\d+)`)[1]) * 1024;
const cpu = () => { const used = process.resourceUsage(); return (used.userCPUTime + used.systemCPUTime) / 1e6; };
const before = { clock: process.hrtime.bigint(), cpu: cpu(), rss: memory("VmRSS") };
const latencies = [];
let rows = 0;

service.on("data", (_lsn, message) => {
  if (message.tag === "insert" || message.tag === "update" || message.tag === "delete") {
    rows += 1;
  } else if (message.tag === "commit" && rows >= wanted) {
    const seconds = Number(process.hrtime.bigint() - before.clock) / 1e9;
    const found = { rows, seconds, cpu_seconds: cpu() - before.cpu, rss_before: before.rss, rss_peak: memory("VmHWM"), latencies };
    process.stdout.write(`${JSON.stringify(found)}\n`, () => process.exit(0));
  }
});
service.on("error", (error) => { console.error(error); process.exit(1); });
service.subscribe(plugin, slot);
