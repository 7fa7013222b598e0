# One image for each target: predictor, detector, pipelines, console.
#   docker build --target predictor --build-arg CODE_COMMIT="$(git rev-parse HEAD)" -t fraud-platform-predictor:0.1.0 .
# They run as any numeric user with a read-only root; only /tmp and /state are written to.
ARG BASE=python:3.11-slim

FROM ${BASE} AS tools
# Where packages come from can be told by the variables of pip and uv.
ARG PIP_INDEX_URL
ARG UV_DEFAULT_INDEX=${PIP_INDEX_URL}
WORKDIR /src
COPY requirements.lock ./
RUN awk '/^[a-z]/ { wanted = /^uv==/ } wanted' requirements.lock > uv.txt \
    && python -m venv /opt/tools \
    && /opt/tools/bin/python -m pip install --no-cache-dir --quiet --require-hashes -r uv.txt
ENV PATH=/opt/tools/bin:$PATH UV_COMPILE_BYTECODE=1 UV_LINK_MODE=copy UV_PYTHON_DOWNLOADS=never
RUN uv pip install --no-cache --quiet --python /opt/tools/bin/python -c requirements.lock hatchling
COPY . .
RUN uv build --quiet --wheel --no-build-isolation --out-dir dist

FROM tools AS install-predictor
RUN --mount=type=cache,target=/root/.cache/uv \
    python -m venv --without-pip /opt/fraud \
    && uv pip install --quiet --python /opt/fraud/bin/python -c requirements.lock "$(ls dist/*.whl)[serving]"

FROM tools AS install-detector
RUN --mount=type=cache,target=/root/.cache/uv \
    python -m venv --without-pip /opt/fraud \
    && uv pip install --quiet --python /opt/fraud/bin/python -c requirements.lock "$(ls dist/*.whl)[detectors]"

FROM tools AS install-pipelines
RUN --mount=type=cache,target=/root/.cache/uv \
    python -m venv --without-pip /opt/fraud \
    && uv pip install --quiet --python /opt/fraud/bin/python -c requirements.lock "$(ls dist/*.whl)[pipelines]"

FROM tools AS install-console
RUN --mount=type=cache,target=/root/.cache/uv \
    python -m venv --without-pip /opt/fraud \
    && uv pip install --quiet --python /opt/fraud/bin/python -c requirements.lock "$(ls dist/*.whl)[console]"

FROM ${BASE} AS runtime
ARG CODE_COMMIT
ENV PATH=/opt/fraud/bin:$PATH HOME=/tmp PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 FRAUD_CODE_COMMIT=${CODE_COMMIT}
RUN mkdir -m 1777 /state
USER 10001:10001
WORKDIR /tmp

FROM runtime AS predictor
COPY --from=install-predictor /opt/fraud /opt/fraud
CMD ["python", "-m", "serving.predictor"]

FROM runtime AS detector
COPY --from=install-detector /opt/fraud /opt/fraud
CMD ["python", "-m", "detectors"]

FROM runtime AS pipelines
COPY --from=install-pipelines /opt/fraud /opt/fraud
CMD ["python", "-m", "pipelines.launcher"]

FROM runtime AS console
COPY --from=install-console /opt/fraud /opt/fraud
CMD ["python", "-m", "serving.rollout"]
