// Debezium's embedded engine on a slot, its events to Kafka, until so many came; says what that took from one of them on.
// Arguments: a file of the engine's properties, the brokers, the number of events, the one from which on it is measured.
import com.sun.management.OperatingSystemMXBean;
import io.debezium.engine.ChangeEvent;
import io.debezium.engine.DebeziumEngine;
import io.debezium.engine.format.JsonByteArray;
import java.io.FileInputStream;
import java.io.PrintStream;
import java.lang.management.ManagementFactory;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Properties;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.Executors;
import java.util.concurrent.TimeUnit;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.serialization.ByteArraySerializer;

public class Produce implements DebeziumEngine.ChangeConsumer<ChangeEvent<byte[], byte[]>> {
    private final KafkaProducer<byte[], byte[]> producer;
    private final long rows;
    private final long from;
    private final CountDownLatch done = new CountDownLatch(1);
    private volatile Exception failure;
    private long seen;
    private long clock;
    private long cpu;
    private String measured = "";

    Produce(KafkaProducer<byte[], byte[]> producer, long rows, long from) {
        this.producer = producer;
        this.rows = rows;
        this.from = from;
    }

    private static long cpu() {
        return ((OperatingSystemMXBean) ManagementFactory.getOperatingSystemMXBean()).getProcessCpuTime();
    }

    @Override
    public void handleBatch(
            List<ChangeEvent<byte[], byte[]>> events,
            DebeziumEngine.RecordCommitter<ChangeEvent<byte[], byte[]>> committer) throws InterruptedException {
        long before = seen;
        for (ChangeEvent<byte[], byte[]> event : events) {
            if (event.destination().contains("orders")) {
                producer.send(new ProducerRecord<>(event.destination(), event.key(), event.value()), (place, error) -> {
                    if (error != null) {
                        failure = error;
                    }
                });
                if (event.value() != null) {
                    seen++;
                }
            }
            committer.markProcessed(event);
        }
        producer.flush();
        committer.markBatchFinished();
        if (before < from && seen >= from) {
            from(seen);
        }
        if (seen >= rows && measured.isEmpty()) {
            measured = String.format(
                    "{\"rows\":%d,\"seconds\":%f,\"cpu_seconds\":%f",
                    seen - begun, (System.nanoTime() - clock) / 1e9, (cpu() - cpu) / 1e9);
            done.countDown();
        }
    }

    private long begun;

    private void from(long row) {
        begun = row;
        clock = System.nanoTime();
        cpu = cpu();
    }

    public static void main(String[] arguments) throws Exception {
        PrintStream out = System.out;
        System.setOut(System.err);
        Properties properties = new Properties();
        try (FileInputStream file = new FileInputStream(arguments[0])) {
            properties.load(file);
        }
        Properties kafka = new Properties();
        kafka.put("bootstrap.servers", arguments[1]);
        kafka.put("compression.type", "lz4");
        kafka.put("linger.ms", "5");
        kafka.put("batch.size", "1000000");
        kafka.put("acks", "all");
        var producer = new KafkaProducer<>(kafka, new ByteArraySerializer(), new ByteArraySerializer());
        Produce produce = new Produce(producer, Long.parseLong(arguments[2]), Long.parseLong(arguments[3]));
        DebeziumEngine<ChangeEvent<byte[], byte[]>> engine = DebeziumEngine.create(JsonByteArray.class)
                .using(properties)
                .notifying(produce)
                .using((success, message, error) -> {
                    if (!success) {
                        System.err.println(message);
                        if (error != null) {
                            error.printStackTrace();
                        }
                        System.exit(1);
                    }
                })
                .build();
        Executors.newSingleThreadExecutor().execute(engine);
        boolean whole = produce.done.await(900, TimeUnit.SECONDS) && produce.failure == null;
        if (!whole) {
            System.err.println("not all events came, or Kafka refused one: " + produce.failure);
            System.exit(1);
        }
        long peak = Files.readAllLines(Path.of("/proc/self/status")).stream()
                .filter(line -> line.startsWith("VmHWM:"))
                .mapToLong(line -> Long.parseLong(line.replaceAll("\\D", "")) * 1024)
                .sum();
        out.println(produce.measured + ",\"rss_before\":0,\"rss_peak\":" + peak + "}");
        out.flush();
        System.exit(0);
    }
}
