// The Java kernel: evaluates code in one jdk.jshell, so that variables, methods, classes and imports stay.
//
// Descriptor 3: to the kernel, texts that end in a zero byte: how many variables, their names and values, the code. From
// it, lines of JSON as pipe.py says. What is printed goes to the standard streams.
package atoll;

import java.io.BufferedInputStream;
import java.io.ByteArrayOutputStream;
import java.io.FileDescriptor;
import java.io.FileInputStream;
import java.io.FileOutputStream;
import java.io.IOException;
import java.io.InputStream;
import java.io.OutputStream;
import java.nio.charset.StandardCharsets;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import jdk.jshell.ExpressionSnippet;
import jdk.jshell.JShell;
import jdk.jshell.Snippet;
import jdk.jshell.SnippetEvent;
import jdk.jshell.SourceCodeAnalysis;
import jdk.jshell.spi.ExecutionControl;
import jdk.jshell.spi.ExecutionControlProvider;
import jdk.jshell.spi.ExecutionEnv;
import sun.misc.Signal;

final class Kernel {
    private static final List<String> STARTUP = List.of("java.io.*", "java.math.*", "java.net.*", "java.nio.file.*",
            "java.util.*", "java.util.concurrent.*", "java.util.function.*", "java.util.regex.*", "java.util.stream.*",
            "static atoll.Display.display");

    private final Control control = new Control();
    private final JShell shell;
    private final Environment environment = new Environment();

    private Kernel() {
        shell = JShell.builder()
                .executionEngine(new Provider(), Map.of())
                .compilerOptions("-classpath", System.getProperty("java.class.path"))
                .build();
        for (String name : STARTUP) {
            shell.eval("import " + name + ";");
        }
    }

    public static void main(String[] arguments) throws Exception {
        var constructor = FileDescriptor.class.getDeclaredConstructor(int.class);
        constructor.setAccessible(true);
        FileDescriptor socket = constructor.newInstance(3);
        InputStream in = new BufferedInputStream(new FileInputStream(socket));
        OutputStream out = new FileOutputStream(socket);
        Display.to(out);
        Kernel kernel = new Kernel();
        Signal.handle(new Signal("INT"), signal -> kernel.control.stop());
        for (String count = text(in); count != null; count = text(in)) {
            Map<String, String> variables = new LinkedHashMap<>();
            for (int left = Integer.parseInt(count); left > 0; left--) {
                variables.put(text(in), text(in));
            }
            String code = text(in);
            if (code == null) {
                return;
            }
            kernel.environment.with(variables, () -> kernel.run(code));
            System.out.flush();
            System.err.flush();
            Display.done();
        }
        System.exit(0);
    }

    /** The next text, or null at the end. */
    private static String text(InputStream in) throws IOException {
        ByteArrayOutputStream bytes = new ByteArrayOutputStream();
        for (int b = in.read(); b != 0; b = in.read()) {
            if (b < 0) {
                return null;
            }
            bytes.write(b);
        }
        return bytes.toString(StandardCharsets.UTF_8);
    }

    /** Evaluates one snippet after the other; the first that fails is the last. */
    private void run(String code) {
        control.begin();
        SourceCodeAnalysis analysis = shell.sourceCodeAnalysis();
        SnippetEvent last = null;
        for (String rest = code; !rest.isBlank(); ) {
            SourceCodeAnalysis.CompletionInfo info = analysis.analyzeCompletion(rest);
            if (info.completeness() == SourceCodeAnalysis.Completeness.EMPTY) {
                break; // nothing but comments is left
            }
            // What isn't complete is evaluated all the same: the compiler says what is missing.
            String source = info.completeness().isComplete() ? info.source() : rest;
            rest = info.completeness().isComplete() ? info.remaining() : "";
            control.value = null;
            for (SnippetEvent event : shell.eval(source)) {
                if (event.causeSnippet() != null) {
                    continue; // what became of earlier snippets
                }
                if (control.stopped()) {
                    Display.error("Interrupted", "the execution was interrupted", "Interrupted");
                    return;
                }
                if (event.status() == Snippet.Status.REJECTED) {
                    Problems.ofSource(shell, event.snippet(), source);
                    return;
                }
                if (event.exception() != null) {
                    Problems.ofRun(shell, event.exception());
                    return;
                }
                last = event;
            }
        }
        if (last != null && isAsked(last.snippet())) {
            Display.show(control.value, true);
        }
    }

    /** Whether a snippet's value is wanted: an expression that isn't an assignment. */
    private static boolean isAsked(Snippet snippet) {
        return snippet.subKind() == Snippet.SubKind.TEMP_VAR_EXPRESSION_SUBKIND // the shell gives it a name
                || snippet instanceof ExpressionSnippet && snippet.subKind() != Snippet.SubKind.ASSIGNMENT_SUBKIND;
    }

    /** Has code run in this very process: what it makes is at hand as it is. */
    private final class Provider implements ExecutionControlProvider {
        @Override
        public String name() {
            return "here";
        }

        @Override
        public ExecutionControl generate(ExecutionEnv env, Map<String, String> parameters) {
            return control;
        }
    }
}
