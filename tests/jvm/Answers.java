import ai.onnxruntime.OnnxTensor;
import ai.onnxruntime.OrtEnvironment;
import ai.onnxruntime.OrtException;
import ai.onnxruntime.OrtSession;
import java.io.IOException;
import java.io.PrintWriter;
import java.nio.IntBuffer;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.Set;

/**
 * Runs an ONNX package as an Android app would: {@code java -cp onnxruntime.jar Answers.java MODEL CALLS ANSWERS}.
 *
 * <p>CALLS has a line per call: force_route, point, and the L ids of the history. ANSWERS has a line for each:
 * route, scores and ids, between bars; the route alone where force_route is -2; or {@code refused} and the
 * runtime's words.
 */
public final class Answers {
    private static final int ROUTER_ALONE = -2;

    public static void main(String[] arguments) throws OrtException, IOException {
        OrtEnvironment environment = OrtEnvironment.getEnvironment();
        environment.setTelemetry(false); // beside ORT_DISABLE_TELEMETRY=1, which must stand before the library loads
        OrtSession.SessionOptions options = new OrtSession.SessionOptions();
        options.setIntraOpNumThreads(1);
        options.setOptimizationLevel(OrtSession.SessionOptions.OptLevel.BASIC_OPT);
        List<String> calls = Files.readAllLines(Path.of(arguments[1]), StandardCharsets.UTF_8);
        try (OrtSession session = environment.createSession(arguments[0], options);
                PrintWriter answers = new PrintWriter(arguments[2], StandardCharsets.UTF_8)) {
            for (String call : calls) {
                answers.println(answer(environment, session, call));
            }
        }
    }

    private static String answer(OrtEnvironment environment, OrtSession session, String call) {
        String[] words = call.split(" ");
        int force = Integer.parseInt(words[0]);
        int point = Integer.parseInt(words[1]);
        int[] history = new int[words.length - 2];
        for (int place = 0; place < history.length; place++) {
            history[place] = Integer.parseInt(words[place + 2]);
        }
        Set<String> wanted = force == ROUTER_ALONE ? Set.of("route") : Set.of("route", "scores", "ids");
        try (OnnxTensor seq = tensor(environment, history, 1, history.length);
                OnnxTensor forced = tensor(environment, new int[] {force}, 1);
                OnnxTensor at = tensor(environment, new int[] {point}, 1);
                OrtSession.Result result =
                        session.run(Map.of("seq", seq, "force_route", forced, "point", at), wanted)) {
            List<String> parts = new ArrayList<>();
            parts.add(String.valueOf(((long[]) result.get("route").get().getValue())[0]));
            if (force != ROUTER_ALONE) {
                float[] scores = ((float[][]) result.get("scores").get().getValue())[0];
                long[] ids = ((long[][]) result.get("ids").get().getValue())[0];
                List<String> shownScores = new ArrayList<>();
                List<String> shownIds = new ArrayList<>();
                for (int place = 0; place < ids.length; place++) {
                    shownScores.add(Float.toString(scores[place])); // its bits come back from these digits
                    shownIds.add(Long.toString(ids[place]));
                }
                parts.add(String.join(" ", shownScores));
                parts.add(String.join(" ", shownIds));
            }
            return String.join("|", parts);
        } catch (OrtException error) {
            return "refused " + error.getMessage().replace('\n', ' ');
        }
    }

    private static OnnxTensor tensor(OrtEnvironment environment, int[] values, long... shape) throws OrtException {
        return OnnxTensor.createTensor(environment, IntBuffer.wrap(values), shape);
    }
}
