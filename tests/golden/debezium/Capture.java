// Runs Debezium's embedded engine on a slot until a row of the table `done` came, and prints a JSON line for each event.
import io.debezium.engine.ChangeEvent;
import io.debezium.engine.DebeziumEngine;
import io.debezium.engine.format.Json;
import java.io.FileInputStream;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.util.Properties;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.Executors;
import java.util.concurrent.TimeUnit;

public class Capture {
    public static void main(String[] arguments) throws Exception {
        Properties properties = new Properties();
        try (FileInputStream file = new FileInputStream(arguments[0])) {
            properties.load(file);
        }
        PrintStream out = new PrintStream(System.out, true, StandardCharsets.UTF_8);
        System.setOut(System.err);
        CountDownLatch done = new CountDownLatch(1);
        DebeziumEngine<ChangeEvent<String, String>> engine = DebeziumEngine.create(Json.class)
                .using(properties)
                .notifying(event -> {
                    if (event.destination().endsWith(".done")) {
                        done.countDown();
                    } else if (done.getCount() > 0) {
                        out.printf("{\"topic\":\"%s\",\"key\":%s,\"value\":%s}%n",
                                event.destination(), event.key(), event.value());
                    }
                })
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
        var executor = Executors.newSingleThreadExecutor();
        executor.execute(engine);
        boolean whole = done.await(120, TimeUnit.SECONDS);
        engine.close();
        executor.shutdown();
        System.exit(whole ? 0 : 1);
    }
}
