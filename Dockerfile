# The service in a container. The model is mounted or named, not built in:
#   docker build -t hf-deepfake .
#   docker run -p 7860:7860 -e HF_DEEPFAKE_API_KEY=… -v ./runs/mine/ensemble:/model:ro hf-deepfake
FROM python:3.12-slim

RUN useradd --create-home serving
WORKDIR /home/serving
COPY pyproject.toml README.md LICENSE ./
COPY hf_deepfake hf_deepfake
COPY space space
RUN pip install --no-cache-dir --extra-index-url https://download.pytorch.org/whl/cpu ".[serve]"

USER serving
ENV HF_HUB_OFFLINE=1
EXPOSE 7860
HEALTHCHECK --start-period=60s CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:7860/health', timeout=5)"]
ENTRYPOINT ["hf-deepfake", "serve", "--host", "0.0.0.0"]
CMD ["--model", "/model"]
