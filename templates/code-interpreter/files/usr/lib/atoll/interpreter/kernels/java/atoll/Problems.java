// What went wrong, as an error with name, value and traceback.
package atoll;

import java.util.ArrayList;
import java.util.List;
import java.util.Locale;
import java.util.stream.Collectors;
import jdk.jshell.Diag;
import jdk.jshell.EvalException;
import jdk.jshell.JShell;
import jdk.jshell.JShellException;
import jdk.jshell.Snippet;
import jdk.jshell.UnresolvedReferenceException;

final class Problems {
    private Problems() {}

    /** The compiler refuses it. */
    static void ofSource(JShell shell, Snippet snippet, String source) {
        List<String> lines = new ArrayList<>();
        String first = null;
        for (Diag problem : (Iterable<Diag>) shell.diagnostics(snippet)::iterator) {
            if (!problem.isError()) {
                continue;
            }
            String said = problem.getMessage(Locale.ENGLISH).replaceAll("\\s*location: class\\s*$", "");
            first = first == null ? said : first;
            int at = (int) Math.min(Math.max(problem.getPosition(), 0), source.length());
            int begin = source.lastIndexOf('\n', at - 1) + 1;
            int end = source.indexOf('\n', at) < 0 ? source.length() : source.indexOf('\n', at);
            lines.add(said + "\n    " + source.substring(begin, end) + "\n    " + " ".repeat(at - begin) + "^");
        }
        Display.error("CompilationException", first == null ? "the code can't be compiled" : first, String.join("\n", lines));
    }

    /** It was thrown. */
    static void ofRun(JShell shell, JShellException problem) {
        if (problem instanceof UnresolvedReferenceException unresolved) {
            String missing = shell.unresolvedDependencies(unresolved.getSnippet()).collect(Collectors.joining(", "));
            Display.error("UnresolvedReferenceException", "not declared yet: " + missing, "not declared yet: " + missing);
            return;
        }
        StringBuilder trace = new StringBuilder();
        for (Throwable each = problem; each != null; each = each.getCause()) {
            trace.append(each == problem ? "" : "Caused by: ").append(name(each));
            if (each.getMessage() != null) {
                trace.append(": ").append(each.getMessage());
            }
            for (StackTraceElement frame : each.getStackTrace()) {
                String where = frame.getClassName();
                if (!where.startsWith("atoll.") && !where.startsWith("jdk.internal.reflect.")
                        && !(where.equals("java.lang.Thread") && frame.getMethodName().equals("run"))
                        && !where.equals("java.lang.reflect.Method")) {
                    String line = frame.getFileName() == null ? "" : frame.getFileName() + ":" + frame.getLineNumber();
                    trace.append("\n    at ").append(where.isEmpty() ? "" : where + ".").append(frame.getMethodName());
                    trace.append("(").append(line).append(")");
                }
            }
            trace.append("\n");
        }
        Display.error(name(problem), problem.getMessage() == null ? "" : problem.getMessage(), trace.toString().stripTrailing());
    }

    private static String name(Throwable problem) {
        return problem instanceof EvalException thrown ? thrown.getExceptionClassName() : problem.getClass().getName();
    }
}
