import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.BufferedReader;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.HashMap;
import java.util.Map;
import java.util.Properties;
import org.apache.kafka.common.serialization.Serde;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.kstream.Consumed;
import org.apache.kafka.streams.kstream.Produced;
import org.apache.kafka.streams.processor.api.ContextualProcessor;
import org.apache.kafka.streams.processor.api.Record;

/**
 * One hop on Kafka Streams: what contactpoint does, with Jackson and a HashMap of the emails.
 *
 * <p>usage: Hop BROKERS TOPIC APPLICATION EMAILS GUARANTEE, the guarantee as processing.guarantee takes it. What is not
 * set below is as Kafka Streams has it: one thread, a commit every 30 s, or every 100 ms with exactly_once_v2.
 */
public final class Hop {
    /** A message on its way out, and the stop that its slip named. */
    private record Departure(String stop, byte[] value) {}

    public static void main(String[] arguments) throws IOException {
        Properties settings = new Properties();
        settings.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, arguments[0]);
        settings.put(StreamsConfig.APPLICATION_ID_CONFIG, arguments[2]);
        settings.put(StreamsConfig.PROCESSING_GUARANTEE_CONFIG, arguments[4]);
        // It defaults to a folder for all users
        settings.put(StreamsConfig.STATE_DIR_CONFIG, System.getProperty("java.io.tmpdir"));

        Map<String, String> emails = read(Path.of(arguments[3]));
        Serde<byte[]> bytes = Serdes.ByteArray();
        Serde<Departure> departures =
                Serdes.serdeFrom((stop, departure) -> departure.value(), (stop, value) -> new Departure(stop, value));
        StreamsBuilder builder = new StreamsBuilder();
        builder.stream(arguments[1], Consumed.with(bytes, bytes))
                .process(() -> new Contactpoint(emails))
                .to((key, departure, context) -> departure.stop(), Produced.with(bytes, departures));
        KafkaStreams streams = new KafkaStreams(builder.build(), settings);
        streams.setUncaughtExceptionHandler(
                error -> {
                    error.printStackTrace();
                    Runtime.getRuntime().halt(1);
                    return null;
                });
        streams.start();
    }

    private static Map<String, String> read(Path path) throws IOException {
        Map<String, String> emails = new HashMap<>();
        try (BufferedReader lines = Files.newBufferedReader(path)) {
            for (String line = lines.readLine(); line != null; line = lines.readLine()) {
                int comma = line.indexOf(',');
                emails.put(line.substring(0, comma), line.substring(comma + 1));
            }
        }
        return emails;
    }

    private static final class Contactpoint extends ContextualProcessor<byte[], byte[], byte[], Departure> {
        private final ObjectMapper json = new ObjectMapper();
        private final Map<String, String> emails;

        Contactpoint(Map<String, String> emails) {
            this.emails = emails;
        }

        @Override
        public void process(Record<byte[], byte[]> record) {
            try {
                ObjectNode message = (ObjectNode) json.readTree(record.value());
                ObjectNode payload = (ObjectNode) message.get("payload");
                String email = emails.get(payload.get("account_number").asText());
                if (email == null) {
                    return;
                }
                ObjectNode header = (ObjectNode) message.get("header");
                ArrayNode route = (ArrayNode) header.get("route");
                String stop = route.remove(route.size() - 1).asText();
                ((ArrayNode) header.get("historical_route")).add(stop);
                payload.put("email", email);
                context().forward(record.withValue(new Departure(stop, json.writeValueAsBytes(message))));
            } catch (IOException error) {
                throw new UncheckedIOException(error);
            }
        }
    }
}
